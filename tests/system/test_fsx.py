"""Torture of files on a mount while nodes are killed and come back; see `tests/model/torture.py`.

Never are more nodes gone than the code survives: the next ones go only when the mount itself sees
all of them again.  A volume has nodes enough (2m + 1) that stripes written meanwhile have their
full redundancy, so that nothing needs to be rebuilt before the next loss.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.model.torture import Torture
from tests.system.harness import Cluster, cluster_in, wait_until

CODES = ((1, 1), (2, 1), (3, 1), (4, 1), (1, 2), (2, 2), (3, 2), (4, 2))
SHORT_CODES = ((2, 1), (1, 1), (3, 1))
ROUNDS = {False: 1, True: 20}
STEPS = {False: 12_000, True: 50_000}
"""Operations in a round: a million in the long form."""

STEPS_PER_REMOUNT = {False: 4_000, True: 10_000}
DOWN_S = (0.2, 2.5)
"""How long nodes stay away."""

PATIENCE_S = 300
"""A busy machine takes long to start a process; what is tested here are bytes."""

BETWEEN_S = (0.5, 3.0)
"""How long all are there."""


def nodes_seen(cluster: Cluster) -> set[str]:
    """Return the states of the nodes as the mount sees them; nothing while there is none."""
    with contextlib.suppress(OSError):
        report = json.loads(os.getxattr(cluster.mountpoint, "rainfs.mount"))
        return set(report["nodes"].values())
    return set()


class Trouble:
    """Kills up to m nodes again and again, in a thread of its own."""

    def __init__(self, cluster: Cluster, m: int, torture: Torture, seed: int) -> None:
        self._cluster, self._m, self._torture = cluster, m, torture
        self._random = random.Random(seed)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.kills = 0
        self.failure: BaseException | None = None

    def _run(self) -> None:
        try:
            while not self._over.wait(self._random.uniform(*BETWEEN_S)):
                self._round()
        except BaseException as error:
            self.failure = error

    def _round(self) -> None:
        victims = self._random.sample(self._cluster.nodes, self._random.randint(1, self._m))
        names = [node.name for node in victims]
        self._torture.note(f"{names} die")
        for node in victims:
            node.kill()
        self.kills += len(victims)
        self._over.wait(self._random.uniform(*DOWN_S))
        for node in victims:
            node.start()
        for node in victims:
            node.wait_ready(PATIENCE_S)
        wait_until(
            lambda: self._over.is_set() or nodes_seen(self._cluster) == {"up"},
            f"the mount sees {names} again",
            timeout_s=PATIENCE_S,
        )
        self._torture.note(f"{names} are back")

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """Trouble while the body runs."""
        self._thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._thread.join()
        if self.failure is not None:
            raise self.failure


def torment(root: Path, seed: int, *, long_form: bool) -> None:
    """One round: a new volume with its own code."""
    chance = random.Random(seed)
    k, m = chance.choice(CODES if long_form else SHORT_CODES)
    count = max(k + m, 2 * m + 1)
    print(f"seed {seed}: {k}+{m} on {count} nodes")
    with cluster_in(root, nodes=count, code=("--data", k, "--parity", m)) as cluster:
        cluster.mount("timeout=60")
        torture = Torture(cluster.mountpoint, seed)
        trouble = Trouble(cluster, m, torture, seed)
        began = time.monotonic()
        with trouble.around():
            left = STEPS[long_form]
            while left:
                torture.open()
                steps = min(left, STEPS_PER_REMOUNT[long_form])
                torture.steps(steps)
                left -= steps
                torture.close()
                option = chance.choice(["writeback", "noatime"])
                torture.note(f"remount with {option}")
                cluster.remount("timeout=60", option, "cache_mib=8")
                torture.check()
        print(
            f"{STEPS[long_form] / (time.monotonic() - began):.0f}/s, {trouble.kills} nodes killed"
        )
        assert trouble.kills


def test_files_stay_what_they_are_while_nodes_come_and_go(tmp_path: Path, long_form: bool) -> None:
    first = random.randrange(1 << 32)
    for number in range(ROUNDS[long_form]):
        root = tmp_path / str(number)
        root.mkdir()
        torment(root, first + number, long_form=long_form)
