import fcntl
from pathlib import Path

import pytest

from tcm_lab._utils import held as module
from tcm_lab._utils.held import HeldError, held, is_held


def test_one_block_at_a_time_holds_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with held(folder, "is taken"):
        assert is_held(folder)
        with pytest.raises(HeldError, match="new: is taken") as refused, held(folder, "is taken"):
            pass
        assert refused.value.folder == folder
    assert not is_held(folder)
    assert not folder.exists()
    with held(folder, "is taken"):
        (folder / "weights").touch()
    assert folder.exists()


def test_a_folder_that_stayed_empty_is_removed_while_it_is_still_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, release, there = tmp_path / "new", module._release, list[bool]()

    def look(descriptor: int) -> None:
        there.append(folder.exists())
        release(descriptor)

    monkeypatch.setattr(module, "_release", look)
    with held(folder, ""):
        pass
    assert there == [False]  # so that no other block can have begun in what is removed


@pytest.mark.parametrize("when", ["before it is opened", "before it is locked"])
def test_a_folder_that_another_block_removes_just_then_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    folder, removed = tmp_path / "new", list[bool]()
    of, name = (module.os, "open") if when == "before it is opened" else (fcntl, "flock")
    call = getattr(of, name)

    def and_it_is_removed(*arguments: object) -> object:
        if not removed:
            removed.append(True)
            folder.rmdir()
        return call(*arguments)

    monkeypatch.setattr(of, name, and_it_is_removed)
    with held(folder, ""):
        assert removed
        assert is_held(folder)
        (folder / "weights").touch()
