"""Free memory: control groups are read from folders made by hand, the rest is asked of the machine."""

from __future__ import annotations

import psutil
import pytest
import torch

from distal.training.memory import _left_in_cgroups, free_bytes

GROUP_FILES = {
    "v2": ("0::/a/b\n", "", ("memory.max", "memory.current", "inactive_file")),
    "v1": (
        "9:cpu,cpuacct:/\n4:memory:/a/b\n0::/\n",
        "memory",
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ),
}


def write_group(folder, names, limit, usage, cached):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"cache 1\n{names[2]} {cached}\nactive_anon 7\n")


@pytest.mark.parametrize("version", GROUP_FILES)
def test_every_limit_above_the_process_counts_and_cached_files_do_not(tmp_path, version):
    lines, below, names = GROUP_FILES[version]
    membership, root = tmp_path / "cgroup", tmp_path / "fs"
    membership.write_text(lines)
    write_group(root / below / "a" / "b", names, 1000, 700, 100)
    write_group(root / below / "a", names, "max" if version == "v2" else 5000, 900, 100)
    write_group(root / below, names, 2000, 1900, 50)
    expected = {"v2": [400, 150], "v1": [400, 4200, 150]}[version]
    assert list(_left_in_cgroups(membership, root)) == expected


def test_a_path_that_only_the_host_sees_leaves_the_limit_of_the_root(tmp_path):
    _, _, names = GROUP_FILES["v2"]
    membership, root = tmp_path / "cgroup", tmp_path / "fs"
    membership.write_text("0::/machine/container\n")
    write_group(root, names, 900, 300, 0)
    assert list(_left_in_cgroups(membership, root)) == [600]
    assert list(_left_in_cgroups(tmp_path / "absent", root)) == []


def test_on_this_machine():
    free = free_bytes("cpu")
    assert 0 < free <= psutil.virtual_memory().total
    with pytest.raises(ValueError, match="meta"):
        free_bytes("meta")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_memory_that_the_allocator_keeps_counts_as_free():
    before = free_bytes("cuda")
    block = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    held = free_bytes("cuda")
    del block
    assert abs(before - held - 2**28) <= 2**22
    assert abs(free_bytes("cuda") - before) <= 2**22
