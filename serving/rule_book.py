"""The life of rules: drafted, tried in shadow, rolled out, promoted, rolled back, withdrawn; whatever door a person comes through.

State is a fold over the audit log, so every process that reads the log knows the same, every set that was ever drafted or in force
can be had by its hash, and nobody's work is lost between two processes.  What comes into force is published on the compacted topic
``rules``, from which stream and API take it over.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fraud.catalogue import CATALOGUE
from fraud.errors import Unavailable
from fraud.rules import RuleSet
from serving import ledger
from serving.challengers import share
from serving.change_log import Actor, ChangeLog, change_of
from serving.codec import Codec
from serving.control_topics import ControlTopics
from serving.records import Change, RuleSetVersion
from serving.rules_file import DEFAULT_RULES_PATH, load_rules

__all__ = [
    "DRAFTED",
    "PROMOTED",
    "ROLLED_BACK",
    "ROLLED_OUT",
    "SHADOWED",
    "SHIPPED",
    "WITHDRAWN",
    "NothingToUndo",
    "Release",
    "RuleBook",
    "RulesConflict",
    "UnknownRules",
]

DRAFTED, SHADOWED, PROMOTED, ROLLED_BACK, SHIPPED = "rules.draft", "rules.shadow", "rules.promote", "rules.rollback", "rules.shipped"
ROLLED_OUT, WITHDRAWN = "rules.rollout", "rules.withdraw"
_IN_FORCE_BY = frozenset({SHADOWED, ROLLED_OUT, PROMOTED, ROLLED_BACK, WITHDRAWN})

_ATTEMPTS = 8
_CHALLENGER, _PERCENTAGE = "challenger", "traffic_percentage"  # of the body of a change that tries a set


class RulesConflict(ValueError):
    """What is in force is not what the person had looked at: ``version`` is in force now."""

    def __init__(self, version: int) -> None:
        super().__init__(f"version {version} is in force")
        self.version = version


class UnknownRules(ValueError):
    """No such draft, version or set."""


class NothingToUndo(UnknownRules):
    """There is no step to take back; the message is ours, and names nothing that a caller has sent."""


@dataclass(frozen=True, slots=True)
class Release:
    """One version in force: ``rule_set_hash`` is what decisions carry, but those of cards for which the challenger decides.

    ``base_hash`` is the promoted set.  It is another one in old releases alone, which put what was tried into the set in force.
    """

    version: int
    action: str
    rule_set_hash: str
    base_hash: str
    author: str
    created_ms: int
    challenger_hash: str | None = None
    traffic_percentage: float = 0.0


@dataclass(frozen=True, slots=True)
class Draft:
    """A set that somebody wants; named by its hash."""

    rule_set_hash: str
    author: str
    created_ms: int


class RuleBook:
    """Drafts and releases; safe to share between threads.

    Args:
        log: the audit log.
        codec: of this stack.
        bootstrap: of the brokers.
        shipped: the file in force before anything was promoted.
    """

    def __init__(self, log: ChangeLog, codec: Codec, bootstrap: str, shipped: Path = DEFAULT_RULES_PATH) -> None:
        self._log = log
        self._codec = codec
        self._bootstrap = bootstrap
        self._topics = ControlTopics(bootstrap)
        self._lock = threading.RLock()
        default = load_rules(shipped, CATALOGUE.index)
        self._bodies: dict[str, str] = {default.hash: default.to_json()}
        self._releases = [Release(0, SHIPPED, default.hash, default.hash, "fraudguard", 0)]
        self._drafts: dict[str, Draft] = {}
        self._folded = 0

    @property
    def in_force(self) -> Release:
        """The newest release, as of the last refresh."""
        return self._releases[-1]

    @property
    def releases(self) -> Sequence[Release]:
        """All of them, oldest first; the first is what the program ships with."""
        return tuple(self._releases)

    @property
    def drafts(self) -> Sequence[Draft]:
        """All drafts, oldest first."""
        return tuple(self._drafts.values())

    def refresh(self) -> None:
        """Take in what others have done; raises Unavailable, and what was known before stays."""
        self._log.refresh()
        self._fold()

    def rules(self, rule_set_hash: str) -> RuleSet:
        """A set by its hash, of any time; raises UnknownRules."""
        body = self._bodies.get(rule_set_hash)
        if body is None:
            raise UnknownRules(f"no rule set {rule_set_hash[:16]} was ever drafted or in force here")
        return RuleSet.from_json(body, CATALOGUE.index)

    def find(self, start: str) -> str:
        """The one hash that begins so; raises UnknownRules."""
        matches = [digest for digest in self._bodies if digest.startswith(start)]
        if len(matches) != 1:
            raise UnknownRules(f"{len(matches)} rule sets start with {start[:64]!r}")
        return matches[0]

    def draft(self, actor: Actor, rules: RuleSet) -> Draft:
        """Keep a set; drafting the same set again gives the draft that is there."""
        self.refresh()
        if rules.hash not in self._drafts:
            self._append(actor, lambda: change_of(DRAFTED, rules.hash, body=rules.to_json()))
        return self._drafts[rules.hash]

    def keep_shipped(self, actor: Actor) -> None:
        """Keep the set that the program ships with, so that its decisions can be replayed when a later one ships another."""
        self.refresh()
        shipped = self._releases[0].rule_set_hash
        if not any(entry.action == SHIPPED and entry.target == shipped for entry in self._log.entries):
            self._append(actor, lambda: change_of(SHIPPED, shipped, body=self._bodies[shipped]))

    def shadow(self, actor: Actor, draft_hash: str, expected: int | None = None) -> Release:
        """Try a kept set beside what is in force: it is asked behind every decision, and decides nothing."""
        return self._release(actor, lambda: self._trial(SHADOWED, draft_hash, 0.0), expected)

    def roll_out(self, actor: Actor, rule_set_hash: str, traffic_percentage: float, expected: int | None = None) -> Release:
        """Let a kept set decide for a share of the cards; raises InvalidEvent for a share that leaves nothing to what is in force."""
        return self._release(actor, lambda: self._trial(ROLLED_OUT, rule_set_hash, share(traffic_percentage)), expected)

    def promote(self, actor: Actor, rule_set_hash: str, expected: int | None = None) -> Release:
        """Put a kept set in force for all cards; nothing is tried any more."""
        return self._release(actor, lambda: self._whole(PROMOTED, rule_set_hash), expected)

    def roll_back(self, actor: Actor, version: int | None = None, expected: int | None = None) -> Release:
        """Take a rollout back to a shadow; without one, or to a given version, put an earlier promoted set back under a new number."""

        def earlier() -> Change:
            tried = self.in_force.challenger_hash
            if version is None and tried is not None and self.in_force.traffic_percentage:
                return self._trial(ROLLED_BACK, tried, 0.0)
            return self._whole(ROLLED_BACK, self._earlier(version).base_hash)

        return self._release(actor, earlier, expected)

    def withdraw(self, actor: Actor, expected: int | None = None) -> Release:
        """Try no set any more: the promoted one decides for all cards, with nothing beside it; raises NothingToUndo."""

        def alone() -> Change:
            now = self.in_force
            if now.challenger_hash is None and now.rule_set_hash == now.base_hash:
                raise NothingToUndo("no set is tried beside the one in force")
            return self._whole(WITHDRAWN, now.base_hash)

        return self._release(actor, alone, expected)

    def settle(self) -> None:
        """Publish what is in force unless the topic ends with it: a process may have died between the log and the topic."""
        self.refresh()
        if self.in_force.version not in (0, self._published()):
            self._publish_newest()

    def _earlier(self, version: int | None) -> Release:
        if version is None:
            before = [release for release in self._releases if release.base_hash != self.in_force.base_hash]
            if not before:
                raise NothingToUndo("no other set was ever in force; what is tried beside it is withdrawn, not rolled back")
            return before[-1]
        found = next((release for release in self._releases if release.version == version), None)
        if found is None:
            raise UnknownRules(f"no version {version}")
        return found

    def _whole(self, action: str, rule_set_hash: str) -> Change:
        """A set comes into force for all cards."""
        return change_of(action, rule_set_hash, after=rule_set_hash, body=self.rules(rule_set_hash).to_json())

    def _trial(self, action: str, challenger_hash: str, traffic_percentage: float) -> Change:
        """A set is tried beside the promoted one."""
        self.rules(challenger_hash)
        body = json.dumps({_CHALLENGER: challenger_hash, _PERCENTAGE: traffic_percentage})
        return change_of(action, challenger_hash, after=self.in_force.base_hash, body=body)

    def _release(self, actor: Actor, compose: Callable[[], Change], expected: int | None) -> Release:
        """Put in force what ``compose`` gives, unless another version than the expected one is."""

        def make() -> Change:
            self._fold()
            before = self.in_force
            if expected is not None and before.version != expected:
                raise RulesConflict(before.version)
            return replace(compose(), version=before.version + 1, before=before.rule_set_hash)

        made = self._append(actor, make)
        self._publish_newest()
        return next(release for release in self._releases if release.version == made.version)

    def _append(self, actor: Actor, make: Callable[[], Change]) -> Change:
        made = self._log.append(actor, make)
        self._fold()
        return made

    def _fold(self) -> None:
        with self._lock:
            for entry in self._log.entries[self._folded :]:
                self._take(entry)
                self._folded += 1

    def _take(self, entry: Change) -> None:
        if entry.action == DRAFTED and entry.body is not None:
            self._bodies[entry.target] = entry.body
            self._drafts[entry.target] = Draft(entry.target, entry.actor, entry.time_ms)
        elif entry.action == SHIPPED and entry.body is not None:
            self._bodies[entry.target] = entry.body
        elif entry.action in _IN_FORCE_BY and entry.body is not None and entry.after is not None and entry.version is not None:
            release = Release(entry.version, entry.action, entry.after, entry.after, entry.actor, entry.time_ms)
            said = json.loads(entry.body)
            if _CHALLENGER in said:
                release = replace(release, challenger_hash=said[_CHALLENGER], traffic_percentage=said[_PERCENTAGE])
            else:
                self._bodies[entry.after] = entry.body
                if entry.action == SHADOWED:  # as it was done once: what is tried stands in the set in force
                    release = replace(release, base_hash=self.in_force.base_hash)
            self._releases.append(release)

    def _published(self) -> int | None:
        """The version that the topic ends with."""
        version = None
        for message in ledger.read_to_end(self._bootstrap, (ledger.RULES,)):
            version = self._codec.decode_rule(message.value()).version
        return version

    def _publish_newest(self) -> None:
        """Publish what is in force, again when something newer came meanwhile: whoever is slow must not have the last word."""
        for _ in range(_ATTEMPTS):
            newest = self.in_force
            self._publish(newest)
            self.refresh()
            if self.in_force == newest:
                return
        raise Unavailable("rules", f"others were faster {_ATTEMPTS} times")

    def _publish(self, release: Release) -> None:
        tried = release.challenger_hash
        record = RuleSetVersion(
            version=release.version,
            hash=release.rule_set_hash,
            body=self._bodies[release.rule_set_hash],
            author=release.author,
            created_ms=release.created_ms,
            challenger_hash=tried,
            challenger_body=None if tried is None else self._bodies[tried],
            traffic_percentage=release.traffic_percentage,
        )
        self._topics.send(ledger.RULES, self._codec.encode_rule(record))
