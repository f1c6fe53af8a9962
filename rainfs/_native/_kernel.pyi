"""What the build makes of native/rain_kernel.h.  `Any` stands for C pointers and arrays."""

from typing import Any

class Lib:
    RAIN_SCALAR: int
    RAIN_AVX2: int
    RAIN_AVX512_GFNI: int
    RAIN_NEON: int
    RAIN_VARIANTS: int
    RAIN_MAX_SHARDS: int

    def rain_variant_name(self, variant: int) -> Any: ...
    def rain_variant_runs(self, variant: int) -> int: ...
    def rain_variant_best(self) -> int: ...
    def rain_gf_tables_bytes(self, variant: int, rows: int, cols: int) -> int: ...
    def rain_gf_prepare(
        self, variant: int, matrix: Any, rows: int, cols: int, tables: Any
    ) -> int: ...
    def rain_gf_multiply(
        self,
        variant: int,
        tables: Any,
        rows: int,
        cols: int,
        inputs: Any,
        in_bytes: Any,
        outputs: Any,
        out_bytes: int,
    ) -> int: ...
    def rain_xor(
        self, variant: int, cols: int, inputs: Any, in_bytes: Any, output: Any, out_bytes: int
    ) -> int: ...
    def rain_copy(
        self, rows: int, source: Any, in_bytes: int, outputs: Any, out_bytes: int
    ) -> int: ...
    def rain_crc32c(self, crc: int, data: Any, length: int) -> int: ...
    def rain_crc32c_pages(self, data: Any, length: int, page_bytes: int, crcs: Any) -> int: ...
    def rain_crc32c_software(self, crc: int, data: Any, length: int) -> int: ...

class Ffi:
    NULL: Any

    def from_buffer(self, cdecl: str, data: Any, require_writable: bool = False) -> Any: ...
    def cast(self, cdecl: str, value: Any) -> Any: ...
    def new(self, cdecl: str, init: Any = None) -> Any: ...
    def string(self, pointer: Any) -> bytes: ...

ffi: Ffi
lib: Lib
