"""What each code of a finding means, an example that has it, and what to do: the text behind `pannier explain CODE`.

A code is stable: it is never given another meaning, and one that is given up is not used again. PAN01xx is about form,
02xx about traffic, 03xx about resilience, 04xx about parts that contradict one another, 05xx about the Central Mesh.
The constant of a code stands where it is found; that both lists are the same, and that each example has its code, is
tested.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Code:
    """`example` is a configuration, a command after `$`, or a remark after `#` about one that would be too long."""

    title: str
    meaning: str
    example: str
    remedy: str


CODES: Final[dict[str, Code]] = {
    "PAN0100": Code(
        "a file cannot be read",
        "The file is not there, is not yours to read, or is larger than a configuration is (256 KiB).",
        "$ pannier analyze absent.toml",
        "Check the path and the rights of the file; split a large project into several files.",
    ),
    "PAN0101": Code(
        "no TOML",
        "The text cannot be parsed, nests deeper than 32 levels, is not UTF-8, or an option is no PATH=VALUE.",
        "[proxy]\nworkers =",
        "Look at the place that is named: a value, a quotation mark or a bracket is missing there, or one is too many.",
    ),
    "PAN0102": Code(
        "an unknown field",
        "Nothing has a field of that name here. One that nobody reads is refused: somebody relies on it.",
        "[proxy]\nwrokers = 2",
        "Correct the name; `pannier explain` with the path of the table lists what it can have.",
    ),
    "PAN0103": Code(
        "a value of the wrong type",
        "A text stands where a number is expected, a number where a table is expected, and the like.",
        '[proxy]\nworkers = "two"',
        'Write what is expected; durations are texts with a unit, such as "10s".',
    ),
    "PAN0104": Code(
        "a value that is not allowed",
        "The type is right, but the value is out of bounds, none of the possible ones, or contradicts its neighbours.",
        'orphan_grace = "5 minutes"',
        "`pannier explain` with the field's path says what is possible.",
    ),
    "PAN0105": Code(
        "an unknown name",
        "No profile, or no installed sidecar, is called that.",
        "[sidecars.trafic]",
        "Correct the name; `pannier profile list` and `pannier sidecar list` show what there is.",
    ),
    "PAN0106": Code(
        "something is missing",
        "A table only makes sense with this field, and no layer gives it.",
        "[sidecars.resilience.inbound.rate_limit]\nmax = 100",
        "Add the field, or leave the table out.",
    ),
    "PAN0107": Code(
        "too many findings",
        "After a hundred findings of one kind the rest is left out: this is no configuration, or one mistake repeated.",
        "# 101 fields that are unknown",
        "Correct what was listed, and look again.",
    ),
    "PAN0108": Code(
        "a sidecar that is installed but broken",
        "Its package has an entry point of the group pannier.sidecars that leads nowhere, to something that is no "
        "struct, or has a name that is another one's. Whoever does not name the sidecar is not touched by that.",
        "# a profile that names a sidecar whose package cannot be imported",
        "Install the package again, or take the sidecar out of the profile.",
    ),
    "PAN0201": Code(
        "an experiment that the stage does not permit",
        "Faults and mirrored requests can hurt whoever is called. A stage says in `allow` whether it permits them.",
        'extends = "production"\n[sidecars.traffic.services.orders]\nfault = { abort = 503, percent = 1.0 }',
        "Use a stage that permits it (test, staging), or set sidecars.traffic.allow in your own file and mean it.",
    ),
    "PAN0202": Code(
        "a subset that nobody defines",
        "A split, a target or a shift names a subset that the service does not have.",
        '[sidecars.traffic.services.orders]\nsplit = { v1 = 90, v2 = 10 }\nsubsets = { v1 = { version = "v1" } }',
        "Define it under the service's `subsets`, by the metadata of its endpoints.",
    ),
    "PAN0203": Code(
        "weights that are all 0",
        "Nothing is left that could be called.",
        '[[sidecars.traffic.routes]]\nname = "orders"\nto = { orders = 0 }',
        "Give one of them a weight above 0.",
    ),
    "PAN0204": Code(
        "weights that do not add up",
        "Weights are relative, so it works; but weights that do not add up to 100 (or 1000) are mostly a slip.",
        '[[sidecars.traffic.routes]]\nname = "orders"\nto = { orders = 90, payments = 20 }',
        "Make them add up to 100.",
    ),
    "PAN0205": Code(
        "two routes of one name",
        "Metrics, commands and messages tell routes apart by their names.",
        '[[sidecars.traffic.routes]]\nname = "a"\nhosts = ["x"]\n'
        '[[sidecars.traffic.routes]]\nname = "a"\nhosts = ["y"]',
        "Give each a name of its own.",
    ),
    "PAN0206": Code(
        "a route that is never reached",
        "The first match in the order of the file wins, and routes before this one take all that it matches.",
        '[[sidecars.traffic.routes]]\nname = "all"\n[[sidecars.traffic.routes]]\nname = "some"\nhosts = ["orders"]',
        "Put the more special route first.",
    ),
    "PAN0207": Code(
        "a route that is reached in part",
        "Routes before this one take some of its hosts or matches whole.",
        '[[sidecars.traffic.routes]]\nname = "one"\nhosts = ["a"]\n'
        '[[sidecars.traffic.routes]]\nname = "both"\nhosts = ["a", "b"]',
        "Take out what is never reached, or change the order.",
    ),
    "PAN0208": Code(
        "too many routes to compare",
        "Whether a route can be reached is found by comparing it with those before it. Here that would take too long.",
        "# thousands of routes with hosts in common and many matches each",
        "Nothing is wrong with it; whether routes overlap is yours to see. Fewer matches a route make it comparable.",
    ),
    "PAN0209": Code(
        "timeouts that do not fit together",
        "`request` bounds all attempts of a route together, `backend_request` each of them.",
        '[[sidecars.traffic.routes]]\nname = "a"\nretries = 2\ntimeouts = { request = "2s", backend_request = "1s" }\n'
        "[sidecars.resilience]",
        "Give `request` as much time as all attempts may take, or make fewer or shorter attempts.",
    ),
    "PAN0210": Code(
        "a route that redirects and routes",
        "A redirect is answered at once, so where the request would go, or how it is rewritten, has no effect.",
        '[[sidecars.traffic.routes]]\nname = "a"\nredirect = { host = "b" }\nto = { orders = 1 }',
        "Keep one of the two.",
    ),
    "PAN0211": Code(
        "a mirror of a service into itself",
        "The service gets the request and its copy: twice the load, and whatever it does, done twice.",
        '[sidecars.traffic]\nallow = ["mirror"]\n[sidecars.traffic.services.orders]\nmirror = { to = "orders" }',
        "Mirror to another service, or to a subset that serves nobody.",
    ),
    "PAN0212": Code(
        "hashing without a key",
        "Ring hash and maglev send what has the same key to the same endpoint; the key is that of `affinity`.",
        '[sidecars.traffic.services.orders]\nbalance = "maglev"',
        "Add `affinity` with a cookie or a header, or choose another policy.",
    ),
    "PAN0213": Code(
        "a canary that cannot run",
        "It has nowhere to shift from, or its condition to abort always holds or never does.",
        '[sidecars.traffic.services.orders]\nsubsets = { v2 = { version = "v2" } }\nshift = { to = "v2" }',
        "Define the subset that serves now beside the new one, and a condition such as success<99%.",
    ),
    "PAN0214": Code(
        "a prefix to replace, and none that matched",
        "In a rewrite or redirect, `prefix` replaces the one that the route matched by; other matches have none.",
        '[[sidecars.traffic.routes]]\nname = "a"\nrewrite = { prefix = "/new" }',
        "Match by `prefix`, or replace the whole `path`.",
    ),
    "PAN0215": Code(
        "an unusual method",
        "HTTP itself knows no such method. Methods are written in capitals and compared exactly.",
        '[[sidecars.traffic.routes]]\nname = "a"\nmatches = [{ method = "GTE" }]',
        "Correct it, unless your callers do use it.",
    ),
    "PAN0216": Code(
        "retries of an inbound route",
        "Retries are made on the caller's side, where other endpoints can be tried; on ours they would only repeat.",
        '[[sidecars.traffic.routes]]\nname = "a"\nside = "inbound"\nretries = 1',
        "Write them into an outbound route of the caller.",
    ),
    "PAN0217": Code(
        "what the data path refuses",
        "The code that carries a route out was asked, and cannot: a regular expression that is malformed or too large, "
        "an edit of a field that frames the message, a host that is none, a timeout longer than a day.",
        '[[sidecars.traffic.routes]]\nname = "a"\nmatches = [{ regex = "(" }]',
        "The message says what does not hold, in the words of that code; correct it there.",
    ),
    "PAN0301": Code(
        "both failure policies",
        "A breaker and outlier ejection watch the same endpoints: an ejection at 5 failures would hide a breaker at 7. "
        "Only what `failure_policy` names is in force, and the other one is set up as well.",
        '[sidecars.resilience.services.orders]\nfailure_policy = "outlier"\nbreaker = { consecutive_failures = 3 }',
        "Decide for one, and take the settings of the other out.",
    ),
    "PAN0302": Code(
        "a failure policy that is off",
        'It is set up, and `failure_policy = "none"` switches it off.',
        '[sidecars.resilience.services.orders]\nfailure_policy = "none"\nbreaker = { consecutive_failures = 3 }',
        "Name it in `failure_policy`, or take its settings out.",
    ),
    "PAN0303": Code(
        "a penalty that begins above its end",
        "A breaker's penalty doubles from `penalty_min` to `penalty_max`.",
        '[sidecars.resilience.services.orders.breaker]\npenalty_min = "2m"',
        "Raise `penalty_max`, or lower `penalty_min`.",
    ),
    "PAN0304": Code(
        "an ejection that begins above its end",
        "An endpoint is out for `base_ejection` times how often it was, at most for `max_ejection`.",
        '[sidecars.resilience.services.orders]\nfailure_policy = "outlier"\noutlier = { base_ejection = "10m" }',
        "Raise `max_ejection`, or lower `base_ejection`.",
    ),
    "PAN0305": Code(
        "a back-off that begins above its end",
        "The wait before a retry doubles from `backoff_min` to `backoff_max`.",
        '[sidecars.resilience.services.orders.retry]\nbackoff_min = "1s"',
        "Raise `backoff_max`, or lower `backoff_min`.",
    ),
    "PAN0306": Code(
        "many retries and no budget",
        "When everything fails, each request becomes as many as there are tries: the load that keeps an outage going.",
        "# five retries and no budget",
        "Keep the budget, or retry less.",
    ),
    "PAN0307": Code(
        "a bucket that is filled too often",
        "Tokens are added every `interval`; below 50 ms that costs more than it smooths.",
        '[sidecars.resilience.inbound.rate_limit]\nmax = 10\nfill = 1\ninterval = "10ms"',
        "Fill more at a time, less often: the rate is the same.",
    ),
    "PAN0308": Code(
        "a bulkhead that is never reached",
        "`resources.requests` ends at fewer calls than the bulkhead admits.",
        "[sidecars.resilience.services.orders]\nbulkhead = { concurrent = 2000 }",
        "Lower the bulkhead, or raise `resources.requests`.",
    ),
    "PAN0309": Code(
        "sheddable requests that outlast others",
        "Shedding takes the sheddable ones first: their share of the room cannot be above that of the default ones.",
        "[sidecars.resilience.inbound.shedding]\nsheddable = 0.95",
        "Lower `sheddable`, or raise `default`.",
    ),
    "PAN0310": Code(
        "somebody who is out for an hour",
        "The data path takes a word that reaches an hour ahead for damaged memory, and lets the endpoint in again.",
        '[sidecars.resilience.services.orders.breaker]\npenalty_max = "50m"',
        "Stay below an hour, jitter included; a healed endpoint is back after one good request anyway.",
    ),
    "PAN0401": Code(
        "retries, and nobody who makes them",
        "Routes say how often, resilience says whether: without it there are no retries.",
        '[sidecars.discovery]\n[[sidecars.traffic.routes]]\nname = "a"\nretries = 2',
        "Add [sidecars.resilience], or take `retries` out.",
    ),
    "PAN0402": Code(
        "a service that nobody knows",
        "Without discovery a service is known if `services` says where it is, or if it is an app of the same project. "
        "Calls to one that is not known fail.",
        '[[sidecars.traffic.routes]]\nname = "a"\nto = { orders = 1 }',
        "Correct the name, give it an address under `services`, or add [sidecars.discovery].",
    ),
    "PAN0403": Code(
        "a subset that nobody is in",
        "A subset selects endpoints by their metadata. Without discovery these are those in `services`. None has it.",
        '[[services.orders]]\naddress = "127.0.0.1:8080"\nmetadata = { version = "v1" }\n'
        '[sidecars.traffic.services.orders]\nsubsets = { v2 = { version = "v2" } }',
        "Give the metadata to the endpoints that are meant, or add [sidecars.discovery].",
    ),
    "PAN0404": Code(
        "a timeout that outlasts the callee's",
        "A route's timeouts hold on the caller's side. The callee's proxy, under the same profile, waits for its app "
        "no longer than proxy.timeouts.request, and answers 504 before this route gives up.",
        '[[sidecars.traffic.routes]]\nname = "a"\ntimeouts = { request = "1m" }',
        "Raise proxy.timeouts.request of the callee, or give up earlier; a callee of another kind has its own.",
    ),
    "PAN0405": Code(
        "a right that is not granted",
        "A sidecar that does not come with Pannier has its own topics, hears `lifecycle` and publishes `events`. "
        "Tables, counters and the topics of others are the profile's to grant.",
        '# [sidecars.tenant], and no [grants.tenant] writes = ["headers"]',
        "Add the line that is shown, if you mean it; or take the sidecar out.",
    ),
    "PAN0406": Code(
        "two owners of one thing",
        "A table has one writer, a topic one publisher, and rings have one reader: two would take turns without end.",
        "# two sidecars that both write table headers",
        "Keep one of the two.",
    ),
    "PAN0501": Code(
        "a Central Mesh that would flap",
        "Work leaves a busy host and comes back to a calm one. These numbers let it come back too early, leave too "
        "early, or turn round before anybody sees whether it helped; then it goes to and fro.",
        '[central]\noutbound = "off"\naddresses = ["127.0.0.1:15090"]\nleave = { share = 0.95 }',
        "Take the value that is shown, or leave the number out: the defaults are far from all of these.",
    ),
    "PAN0502": Code(
        "a Central that would call unknown names",
        "A Central calls for other hosts. Names that no cluster has are known to a host's own network at best, and one "
        "that calls any name is an open proxy.",
        '[central]\naddresses = ["127.0.0.1:15090"]',
        'Set outbound.unknown = "deny"; on a host whose app needs unknown names, central.outbound = "off".',
    ),
    "PAN0503": Code(
        "a Central that is reached without encryption",
        "Who a host is, and who the Central is, is said by certificates. Without them only the loopback is used, and "
        "networks of which the profile says that they need none.",
        '[outbound]\nunknown = "deny"\n[central]\naddresses = ["10.77.0.2:15090"]',
        "Give central.tls its three files; or name the network in central.plain, if it encrypts by itself.",
    ),
    "PAN0504": Code(
        "a Central that leans on another one",
        "A call passes one Central at most, so a Central never sends its work away.",
        '[outbound]\nunknown = "deny"\n[central]\naddresses = ["127.0.0.1:15090"]\n[central.gateway]',
        "Take central.addresses out of the Central's profile.",
    ),
    "PAN0505": Code(
        "a Central Mesh without a Central",
        "Nobody is named, and those that could be found cannot be reached, or there is nobody who finds them.",
        '[central]\noutbound = "off"',
        "Name one in central.addresses, add [sidecars.discovery], or say how connections are protected.",
    ),
}
