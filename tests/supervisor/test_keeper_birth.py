"""A keeper that is started before anything else is known: it is used, or it leaves nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio
from pannier.supervisor.keeper_birth import SOCKET_NAME, Born, begin
from pannier.supervisor.keeper_protocol import ZYGOTE
from pannier.supervisor.keeper_start import start_keeper

PATIENCE = 20.0


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("b") / "orders"


def begun(directory: Path) -> Born:
    born = begin(directory, {"PATH": "/usr/bin:/bin"}, own_group=True)
    assert born is not None
    return born


async def test_it_is_the_keeper_of_who_starts_one_and_has_a_zygote(directory: Path) -> None:
    born = begun(directory)
    async with start_keeper(directory, 0, born=born) as keeper:
        assert (keeper.pid, keeper.adopted) == (born.pid, False)
        (process,) = (await keeper.list()).processes
        assert (process.name, process.running) == (ZYGOTE, True)
        assert begin(directory, {}, own_group=True) is None, "there is one"


def test_one_that_nobody_needs_leaves_nothing(directory: Path) -> None:
    begun(directory).undo()
    assert not directory.exists()


async def test_who_finds_it_dead_starts_another(directory: Path) -> None:
    born = begun(directory)
    os.kill(born.pid, signal.SIGKILL)
    with trio.fail_after(PATIENCE):
        async with start_keeper(directory, 0, born=born) as keeper:
            assert keeper.pid != born.pid
            assert (await keeper.list()).processes == ()


def test_where_a_folder_cannot_be_made_there_is_none(directory: Path) -> None:
    directory.write_text("a file")
    assert begin(directory, {}, own_group=True) is None
    assert not (directory / SOCKET_NAME).exists()
