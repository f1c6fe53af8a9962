"""`rainfs status` and `node list`: a stable interface that answers whatever state things are in."""

from __future__ import annotations

import json
import os
import signal
import time

from tests.system.harness import Cluster, rainfs, write_durably

CAPACITY = {"raw_bytes", "used_raw_bytes", "usable_bytes", "used_bytes", "free_bytes"}
NODE = {"id", "name", "url", "state", "capacity_bytes", "used_bytes", "shards", "labels"}
STATUS_BOUND_S = 20.0


def test_the_json_has_exactly_the_promised_fields(shared: Cluster) -> None:
    write_durably(shared.mountpoint / "file", os.urandom(1 << 20))
    status = json.loads(rainfs("status", shared.mountpoint, "--json").stdout)
    assert set(status) == {"volume", "capacity", "nodes", "stripes", "tasks"}
    assert set(status["volume"]) == {"id", "name", "data", "parity"}
    assert (status["volume"]["name"], status["volume"]["data"]) == ("test", 4)
    assert status["volume"]["parity"] == 2
    assert set(status["capacity"]) == CAPACITY
    assert all(isinstance(value, int) for value in status["capacity"].values())
    assert status["capacity"]["raw_bytes"] == 6 * (8 << 30)
    assert status["capacity"]["usable_bytes"] == 4 * (8 << 30)
    assert len(status["nodes"]) == 6
    assert all(set(node) == NODE and node["state"] == "up" for node in status["nodes"])
    assert [node["url"] for node in status["nodes"]] == [node.url for node in shared.nodes]
    assert set(status["stripes"]) == {"total", "healthy", "degraded", "lost"}
    assert status["stripes"]["total"] == status["stripes"]["healthy"] > 0
    assert status["tasks"] == []
    assert json.loads(rainfs("status", shared.meta_url, "--json").stdout)["nodes"]


def test_the_table_names_volume_mount_and_nodes(shared: Cluster) -> None:
    text = rainfs("status", shared.mountpoint).stdout
    for expected in (
        "test",
        "4+2",
        str(shared.mountpoint),
        "node-1",
        "node-6",
        shared.nodes[0].url,
    ):
        assert expected in text


def test_df_agrees_with_status(shared: Cluster) -> None:
    seen = os.statvfs(shared.mountpoint)
    capacity = shared.status()["capacity"]
    free = seen.f_bavail * seen.f_frsize
    assert abs(free - capacity["free_bytes"]) <= 0.02 * capacity["usable_bytes"]


def test_status_answers_while_the_mount_is_stuck(shared: Cluster) -> None:
    pid = shared.mount_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        done = rainfs("status", shared.mountpoint, timeout_s=STATUS_BOUND_S)
        assert "node-6" in done.stdout
        assert time.monotonic() - began < STATUS_BOUND_S
    finally:
        os.kill(pid, signal.SIGCONT)


def test_dead_and_frozen_nodes_are_down_in_the_status(shared: Cluster) -> None:
    write_durably(shared.mountpoint / "exposed", os.urandom(4 << 20))
    shared.nodes[0].kill()
    shared.nodes[1].freeze()
    try:
        began = time.monotonic()
        status = shared.status()
        assert time.monotonic() - began < STATUS_BOUND_S
        assert [node["state"] for node in status["nodes"]] == ["down", "down"] + ["up"] * 4
        assert status["stripes"]["degraded"] > 0
        assert status["stripes"]["lost"] == 0
    finally:
        shared.nodes[1].thaw()
        shared.start()
    assert [node["state"] for node in shared.status()["nodes"]] == ["up"] * 6
