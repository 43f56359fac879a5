"""The supervisor's part of the shared memory, held by a real keeper."""

from __future__ import annotations

import os
from pathlib import Path

import msgpack
from pannier import _native
from pannier.shared.central import CentralSettings
from pannier.shared.profile import Profile
from pannier.supervisor.central_table import Forced, central_table
from pannier.supervisor.compose import base_table
from pannier.supervisor.keeper_start import start_keeper
from pannier.supervisor.plan import Arguments, Place
from pannier.supervisor.tables import open_segments


async def test_a_successor_finds_what_there_is_and_lays_out_what_its_predecessor_did_not_know(short_path: Path) -> None:
    async with start_keeper(short_path, 0) as keeper:
        for name, size in _native.SEGMENTS.items():  # a release before
            if name != "table.headers":
                await keeper.memfd(name, size)
                _native.initialise(name, descriptor := await keeper.fetch(name))
                os.close(descriptor)
        older = _native.TableWriter("telemetry", descriptor := await keeper.fetch("table.telemetry"))
        os.close(descriptor)
        generation = older.publish(msgpack.packb({"access_log": True, "sample_ratio": 1.0}))
        segments = await open_segments(keeper)
        states = {state.kind: state for state in segments.states(0)}
        assert (states["telemetry"].generation, states["telemetry"].absent) == (generation, False)
        assert (states["headers"].generation, states["headers"].absent) == (0, True)
        headers = _native.TableWriter("headers", segments.descriptors["table.headers"])
        headers.publish(msgpack.packb({"rules": []}))
        assert not {state.kind: state for state in segments.states(0)}["headers"].absent
        segments.close()
        await keeper.shutdown(1000)


async def test_whoever_fences_the_supervisor_its_next_change_holds(short_path: Path) -> None:
    base = base_table(Profile(), Arguments(name="orders", app="127.0.0.1:8080"))
    async with start_keeper(short_path, 0) as keeper:
        segments = await open_segments(keeper)
        segments.publish_base(base)
        stranger = _native.TableWriter("base", segments.descriptors["table.base"])
        stranger.publish(msgpack.packb({**base, "service": "stranger"}))
        segments.publish_base(base, draining=True)
        held = msgpack.unpackb(_native.TableReader("base", segments.descriptors["table.base"]).read() or b"")
        assert (held["service"], held["lifecycle"]) == ("orders", "draining")
        segments.close()
        await keeper.shutdown(1000)


async def test_the_central_mesh_comes_is_steered_and_goes(short_path: Path) -> None:
    profile = Profile(central=CentralSettings(addresses=["127.0.0.1:15090"]))
    place = Place(str(short_path), {}, "/bin/pannierd", 1, {"inbound": 1, "outbound": 2, "passthrough": 3})
    payload = central_table(profile, Arguments(name="orders", app="127.0.0.1:8080"), place)
    async with start_keeper(short_path, 0) as keeper:
        segments = await open_segments(keeper)
        reader = _native.TableReader("central", segments.descriptors["table.central"])
        segments.publish_central(None, None)
        assert reader.generation() == 0
        segments.publish_central(payload, Forced(40.0, 7))
        stranger = _native.TableWriter("central", segments.descriptors["table.central"])
        stranger.withdraw()
        segments.publish_central(payload, Forced(40.0, 8))
        segments.beat()
        held = msgpack.unpackb(reader.read() or b"")
        assert (held["forced"], held["addresses"]) == ({"weight": 40.0, "id": 8}, ["127.0.0.1:15090"])
        assert segments.central_states() == []
        segments.publish_central(None, None)
        assert reader.read() is None
        segments.close()
        await keeper.shutdown(1000)


async def test_a_successor_takes_back_what_its_predecessor_published(short_path: Path) -> None:
    profile = Profile(central=CentralSettings())
    place = Place(str(short_path), {}, "/bin/pannierd", 1, {"inbound": 1, "outbound": 2})
    payload = central_table(profile, Arguments(name="orders", app="127.0.0.1:8080"), place)
    async with start_keeper(short_path, 0) as keeper:
        before = await open_segments(keeper)
        before.publish_central(payload, None)
        before.close()
        segments = await open_segments(keeper)
        segments.publish_central(None, None)
        assert _native.TableReader("central", segments.descriptors["table.central"]).read() is None
        segments.close()
        await keeper.shutdown(1000)
