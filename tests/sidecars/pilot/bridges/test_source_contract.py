"""What every source of a bridge promises, tried on each of them with the real foreign thing."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio
from pannier.shared.errors import Unreachable
from pannier.shared.statics import read
from pannier.sidecars.pilot.bridges import file as bridges_file
from pannier.sidecars.pilot.bridges.source import Look, id_of
from pannier.sidecars.pilot.stores.zookeeper_session import open_session

from tests.sidecars.pilot.bridges.foreign import SERVICE, Foreign, ForeignDns, ForeignFile, ForeignZooKeeper
from tests.system.host import PATIENCE

A, B, C = "127.0.0.1:80", "127.0.0.2:80", "127.0.0.3:80"


@pytest.fixture(params=["file", "dns-addresses", "dns-srv", "zookeeper"])
async def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Foreign]:
    find: Callable[[str], str] = request.getfixturevalue("require_peer")
    if request.param == "file":
        yield ForeignFile(tmp_path / "static.toml")
    elif request.param == "zookeeper":
        member = request.getfixturevalue("zookeeper")
        async with open_session([member]) as session:
            found = ForeignZooKeeper(member, session, f"/{secrets.token_hex(8)}/services")
            yield found
            found.close()
    else:
        served = ForeignDns(find("dnsmasq"), tmp_path, srv=request.param == "dns-srv")
        yield served
        served.fail()


def addresses(look: Look) -> set[str]:
    assert all(service == SERVICE for service, _ in look.instances)
    return {found.address for found in look.instances.values()}


async def looked(foreign: Foreign) -> Look:
    with trio.fail_after(PATIENCE):
        return await foreign.source.look()


async def until(foreign: Foreign, there: set[str]) -> Look:
    """The first look that has these: watches take their time."""
    with trio.fail_after(PATIENCE):
        while addresses(look := await foreign.source.look()) != there:  # noqa: ASYNC110 - it is asked, and has no event
            await trio.sleep(0.01)
    return look


async def test_a_look_has_everybody_who_is_there_then(foreign: Foreign) -> None:
    for there in ([A], [A, B], [A, B, C], [B, C], [B]):
        foreign.put(there)
        look = await until(foreign, set(there))
        assert {name for _, name in look.instances} == {id_of(address) for address in there}
        assert (look.unclear, look.emptied, look.refused) == (set(), set(), 0)


async def test_nobody_is_nobody_and_no_error(foreign: Foreign) -> None:
    foreign.put([A])
    assert addresses(await looked(foreign)) == {A}
    foreign.put([])
    await until(foreign, set())


async def test_what_says_nothing_is_unreachable_and_not_empty(foreign: Foreign) -> None:
    foreign.put([A])
    assert addresses(await looked(foreign)) == {A}
    foreign.fail()
    with pytest.raises(Unreachable):
        await looked(foreign)
    with pytest.raises(Unreachable):
        await looked(foreign)


async def test_a_change_is_news_or_is_looked_for(foreign: Foreign) -> None:
    foreign.put([A])
    await looked(foreign)
    foreign.put([A, B])
    with trio.fail_after(PATIENCE):
        with trio.move_on_after(foreign.source.every):
            await foreign.source.news()
        while addresses(await foreign.source.look()) != {A, B}:
            await foreign.source.news()


async def test_a_new_life_has_no_lesser_incarnation(foreign: Foreign) -> None:
    foreign.put([A, B])
    before = (await looked(foreign)).instances[SERVICE, id_of(A)].incarnation
    foreign.put([B])
    foreign.put([A, B])
    after = (await until(foreign, {A, B})).instances[SERVICE, id_of(A)].incarnation
    assert (before, after) == (0, 0) or after > before > 0


async def test_a_source_has_a_name_that_fits_into_metadata(foreign: Foreign) -> None:
    assert 0 < len(foreign.source.name) <= 256
    assert foreign.source.every > 0


async def test_a_file_is_read_when_it_has_changed_whether_it_can_be_understood_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []
    monkeypatch.setattr(bridges_file, "read", lambda path: reads.append(path) or read(path))
    foreign = ForeignFile(tmp_path / "static.toml")
    foreign.put([A])
    assert [addresses(await looked(foreign)) for _ in range(3)] == 3 * [{A}]
    assert len(reads) == 1
    foreign.fail()
    for _ in range(3):
        with pytest.raises(Unreachable, match=r"static\.toml:2"):
            await looked(foreign)
    assert len(reads) == 2
    foreign.put([A, B])
    assert addresses(await looked(foreign)) == {A, B}
    (tmp_path / "static.toml").unlink()
    with pytest.raises(Unreachable, match="cannot read"):
        await looked(foreign)
    foreign.put([A, B])
    assert addresses(await looked(foreign)) == {A, B}
