"""What the pilot promises, as questions to a history. Pure; each answer is a list of sentences, empty if it was kept.

Written from docs/pilot.md, ADR 20 and the rules of discovery, not from the code:

- *fenced*: what an older life says changes nothing once a newer one was acknowledged; a deliberate end is final for its
  epoch. Both for what is answered (`linear.py`) and for what is told.
- *onwards*: whoever goes on from a revision is told greater (epoch, revision) of an instance, or the same.
- *not lost*: who was acknowledged and renews in time is told to everybody, in the end and all the time after that, also
  when pilots or a minority of a store were killed or cut off meanwhile.
- *not from some to none*: a service that was told with instances is told as empty only if somebody has left on
  purpose, or stood where nobody calls him.
- *given up in time*: who fell silent is told to nobody in the end, unless he is doubted: the last one of his service,
  or one of too many at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pannier.shared.instances import Key, State

from tests.model.history import NEVER, Call, History, Telling, Told
from tests.model.linear import unexplained


def violations(history: History, *, lag: float, settled: float, bound: float) -> list[str]:
    """All that was not kept. `lag`: seconds for which pilots may not know of each other; `settled`: those within which
    everybody is told who has registered; `bound`: those after a TTL within which somebody who is silent is gone."""
    found = [f"{key}: no order explains what was answered" for key in unexplained(history, lag=lag)]
    found += fenced(history)
    found += onwards(history)
    found += kept(history, lag=lag)
    found += never_emptied(history)
    if history.quiet < NEVER:
        found += told_in_the_end(history, settled=settled)
        found += gone_in_the_end(history, bound=bound)
    return found


def fenced(history: History) -> list[str]:
    """A newer life that was acknowledged before a word of an older one began has won; who has left does not return."""
    found = []
    for key in history.instances():
        calls = history.of(key)
        for call in calls:
            newer = [one for one in calls if one.accepted and one.ended < call.began and _epoch(one) > _epoch(call) > 0]
            if newer and call.kind != "register" and call.accepted:
                found.append(f"{key}: {call} was accepted although {newer[0]} was acknowledged before")
            if newer and call.kind == "register" and call.verdict == "created":
                found.append(f"{key}: {call} created a life older than {newer[0]}")
        ends = {_epoch(call): call.ended for call in calls if call.kind == "leave" and call.verdict == "accepted"}
        for source in {telling.source for telling in history.tellings}:
            highest = 0
            for telling in (one for one in history.tellings if one.source == source and one.service == key[0]):
                if (told := telling.instances.get(key[1])) is not None:
                    if told.epoch < highest and not _overtaken(history, telling):
                        found.append(f"{key}: {source} told epoch {told.epoch} after {highest}")
                    highest = max(highest, told.epoch)
        for epoch, ended in ends.items():
            gone: set[str] = set()
            for telling in (one for one in history.tellings if one.service == key[0] and one.at > ended):
                told = telling.instances.get(key[1])
                if told is None or told.epoch > epoch:
                    gone.add(telling.source)
                elif told.epoch == epoch and telling.source in gone and not _overtaken(history, telling):
                    found.append(f"{key}: {telling.source} told epoch {epoch} again, which had left on purpose")
    return found


def onwards(history: History) -> list[str]:
    """What a watcher is told of an instance only grows, unless it had to read everything anew."""
    found = []
    known: dict[tuple[str, Key], Told] = {}
    revisions: dict[tuple[str, str], int] = {}
    for telling in history.tellings:
        if telling.anew:
            known = {
                place: told
                for place, told in known.items()
                if place[0] != telling.watcher or place[1][0] != telling.service
            }
            revisions.pop((telling.watcher, telling.service), None)
        if telling.revision < revisions.get((telling.watcher, telling.service), 0):
            found.append(f"{telling.watcher}: revision {telling.revision} of {telling.service} came late")
        revisions[telling.watcher, telling.service] = telling.revision
        for name, told in telling.instances.items():
            place = telling.watcher, (telling.service, name)
            before = known.get(place)
            if before is not None and (told.epoch, told.revision) < (before.epoch, before.revision):
                found.append(f"{telling.watcher}: {place[1]} went from {before} to {told}")
            known[place] = told
    return found


def kept(history: History, *, lag: float) -> list[str]:
    """Who was told, and was not replaced, and has not left, is told on as long as he renews in time."""
    found = []
    for watcher in {telling.watcher for telling in history.tellings}:
        before: dict[str, Telling] = {}
        for telling in (one for one in history.tellings if one.watcher == watcher):
            was = before.get(telling.service)
            before[telling.service] = telling
            for name, told in was.instances.items() if was is not None and not telling.anew else ():
                key = telling.service, name
                if name in telling.instances or _ended(history.of(key), told.epoch, telling.at):
                    continue
                since = was.at - lag if was is not None else 0.0
                if not _was_silent(history.of(key), told.epoch, since, telling.at):
                    found.append(f"{watcher}: {key} epoch {told.epoch} is gone at {telling.at:.3f}, and renews in time")
    return found


def never_emptied(history: History) -> list[str]:
    """A service is never told as empty by time alone."""
    found = []
    before: dict[tuple[str, str], Telling] = {}
    for telling in history.tellings:
        was = before.get((telling.watcher, telling.service))
        before[telling.watcher, telling.service] = telling
        if was is None or not was.instances or telling.instances:
            continue
        excused = any(
            call.began <= telling.at and (call.kind != "register" or call.state not in {None, State.UP})
            for call in history.calls
            if call.key[0] == telling.service
        )
        if not excused:
            found.append(f"{telling.watcher}: {telling.service} went from {sorted(was.instances)} to none")
    return found


def told_in_the_end(history: History, *, settled: float) -> list[str]:
    """All watchers agree in the end, and whoever has to be there is told as he said."""
    found = []
    for (watcher, service), telling in history.last().items():
        for key in (key for key in history.instances() if key[0] == service):
            expected = _must_be_there(history, key, settled)
            told = telling.instances.get(key[1])
            if expected is None:
                continue
            if told is None or told.epoch != _epoch(expected) or told.address != expected.address:
                found.append(f"{watcher}: {key} is told as {told} in the end, and {expected} was acknowledged")
            elif _drains(history.of(key), told.epoch) and told.state is not State.DRAINING:
                found.append(f"{watcher}: {key} has said that it drains, and is told as {told}")
    for service in {telling.service for telling in history.tellings}:
        views = {
            tuple(sorted((name, told.epoch, told.address, told.state) for name, told in telling.instances.items()))
            for (_, name_of), telling in history.last().items()
            if name_of == service
        }
        if len(views) > 1:
            found.append(f"{service}: watchers were told different things in the end: {views}")
    return found


def gone_in_the_end(history: History, *, bound: float) -> list[str]:
    """Who has been silent for long enough is told to nobody, unless he is doubted."""
    found = []
    doubted = {
        (telling.service, name, told.epoch)
        for telling in history.tellings
        for name, told in telling.instances.items()
        if told.suspect
    }
    for (watcher, service), telling in history.last().items():
        for name, told in telling.instances.items():
            words = [call for call in history.of((service, name)) if _epoch(call) in {told.epoch, 0}]
            if not words:
                found.append(f"{watcher}: {service}/{name} is told as {told}, and has never said anything")
                continue
            last = max(call.began if call.ended == NEVER else call.ended for call in words)
            silent = telling.at - max(last, history.quiet)
            ttl = max(call.ttl for call in words)
            if silent > ttl + bound and (service, name, told.epoch) not in doubted:
                found.append(f"{watcher}: {service}/{name} is told as {told}, and has been silent for {silent:.1f} s")
    return found


def _epoch(call: Call) -> int:
    """The epoch that a call was about, 0 if nobody knows."""
    return call.answered or call.epoch


def _overtaken(history: History, telling: Telling) -> bool:
    """Whether another answer of the same pilot was under way at the same moment, so that they may have overtaken each
    other on their way here."""
    return any(
        other is not telling and other.source == telling.source and abs(other.at - telling.at) < _UNDER_WAY
        for other in history.tellings
        if other.watcher != telling.watcher
    )


_UNDER_WAY = 0.5


def _ended(calls: Sequence[Call], epoch: int, at: float) -> bool:
    """Whether somebody may have ended that life before, or begun a newer one. Nobody could end it before it began."""
    begun = min((call.began for call in _renewals(calls, epoch)), default=0.0)
    return any(
        call.began <= at
        and call.ended >= begun
        and (
            (call.kind == "leave" and call.epoch in {0, epoch})
            or _epoch(call) > epoch
            or (call.kind == "register" and call.verdict is None and not call.epoch)
        )
        for call in calls
    )


def _renewals(calls: Sequence[Call], epoch: int) -> Iterator[Call]:
    return (call for call in calls if call.kind == "register" and call.accepted and _epoch(call) == epoch)


def _was_silent(calls: Sequence[Call], epoch: int, since: float, at: float) -> bool:
    """Whether there was a whole TTL, over between `since` and `at`, in which no renewal of that life was acknowledged.
    A pilot has heard one somewhen between its beginning and its end, so what may have been a TTL counts as one. Where
    renewals were refused or lost, half a TTL is enough: the last one that was acknowledged may have been heard by a
    pilot that was cut off already."""
    renewals = [call for call in _renewals(calls, epoch) if call.began <= at]
    if not renewals:
        return True
    ends = [*((call.began, call.ended) for call in renewals[1:]), (at, at)]
    for last, (began, ended) in zip(renewals, ends, strict=True):
        lost = any(last.began < call.began <= began and call.verdict is None for call in calls)
        if ended >= since and ended - last.began >= last.ttl * (0.5 if lost else 1.0):
            return True
    return False


def _must_be_there(history: History, key: Key, settled: float) -> Call | None:
    """The registration in force in the end, if there is no doubt about it: the newest that was acknowledged, which went
    on renewing to the end and which nobody may have ended or replaced."""
    calls = history.of(key)
    newest = max((_epoch(call) for call in calls if call.accepted and call.kind == "register"), default=0)
    renewals = list(_renewals(calls, newest))
    if not renewals or _ended(calls, newest, NEVER):
        return None
    last = renewals[-1]
    heard = history.ended - last.began < last.ttl
    known = any(call.ended <= history.ended - settled for call in renewals)
    return last if heard and known and last.ended > history.quiet else None


def _drains(calls: Sequence[Call], epoch: int) -> bool:
    """Whether the last that a life has said of its state is that it drains, and nothing of that was lost."""
    said = [call for call in calls if _epoch(call) == epoch and (call.kind == "drain" or call.state is not None)]
    lost = any(call.verdict is None for call in said)
    return bool(said) and not lost and said[-1].kind == "drain" and said[-1].accepted
