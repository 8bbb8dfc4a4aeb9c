"""Rules over HTTP: looked at, checked, drafted, tried in shadow, rolled out, promoted, rolled back, withdrawn.

Every change is in the audit log.  The version in force is the entity tag: a change says with ``If-Match`` which version its author has
looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response

from api.bodies import DraftBody, InForceBody, ReleaseBody, RollbackBody, RuleBody, RuleSetBody, VerdictBody
from api.desk import AtDesk, Desk, actor_of
from api.identity import Caller, Role, require
from api.problems import Problem, responses
from api.strict_json import StrictRoute
from fraud.catalogue import CATALOGUE
from fraud.rules import InvalidRules, RuleSet
from serving.change_log import Actor
from serving.rule_book import NothingToUndo, Release, RuleBook, RulesConflict, UnknownRules

__all__ = ["router"]

router = APIRouter(prefix="/v1/rules", tags=["rules"], route_class=StrictRoute)

Reader = Annotated[Caller, require(Role.ANALYST, Role.LEAD, Role.ADMIN)]
Editor = Annotated[Caller, require(Role.LEAD, Role.ADMIN)]
Digest = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="Hash of a rule set.")]
_ALL = 100.0
Share = Annotated[float, Query(gt=0, le=_ALL, allow_inf_nan=False, description="Of how many percent of the cards it decides.")]
IfMatch = Annotated[str, Header(alias="if-match", pattern=r'^"?[0-9]{1,12}"?$', description="The version that was looked at.")]


@router.get("", operation_id="show_rules", responses=responses())
def in_force(_caller: Reader, desk: AtDesk, response: Response) -> InForceBody:
    """The rules in force."""
    desk.book.refresh()
    release = desk.book.in_force
    response.headers["ETag"] = _tag(release.version)
    return InForceBody(**asdict(release), rules=_plain(desk.book.rules(release.rule_set_hash)))


@router.get("/releases", operation_id="list_releases", responses=responses())
def releases(_caller: Reader, desk: AtDesk) -> list[ReleaseBody]:
    """Every version that was ever in force, oldest first."""
    desk.book.refresh()
    return [ReleaseBody(**asdict(release)) for release in desk.book.releases]


@router.get("/drafts", operation_id="list_drafts", responses=responses())
def drafts(_caller: Reader, desk: AtDesk) -> list[DraftBody]:
    """Every draft, oldest first."""
    desk.book.refresh()
    return [DraftBody(**asdict(draft)) for draft in desk.book.drafts]


@router.get("/sets/{rule_set_hash}", operation_id="show_rule_set", responses=responses(404, 422))
def rule_set(rule_set_hash: Digest, _caller: Reader, desk: AtDesk) -> RuleSetBody:
    """A set of any time, by the hash that decisions carry."""
    desk.book.refresh()
    return RuleSetBody(rules=_plain(_known(lambda: desk.book.rules(rule_set_hash))))


@router.post("/validate", operation_id="validate_rules", responses=responses(400, 422))
def validate(body: RuleSetBody, _caller: Reader) -> VerdictBody:
    """Check a set, and say where it cannot be used."""
    try:
        return VerdictBody(valid=True, rule_set_hash=_compiled(body).hash)
    except InvalidRules as error:
        return VerdictBody(valid=False, problem=error.problem, rule_id=error.rule_id, position=error.position)


@router.post("/drafts", operation_id="draft_rules", status_code=201, responses=responses(400, 422))
def draft(body: RuleSetBody, caller: Editor, desk: AtDesk, request: Request, response: Response) -> DraftBody:
    """Keep a set under its hash; it is in force nowhere yet."""
    desk.operator(caller)
    try:
        rules = _compiled(body)
    except InvalidRules as error:
        raise Problem(422, "invalid_rules", "the set cannot be used; /v1/rules/validate says why", position=error.position) from None
    made = desk.book.draft(actor_of(caller, request), rules)
    response.headers["Location"] = f"/v1/rules/sets/{made.rule_set_hash}"
    return DraftBody(**asdict(made))


_CHANGES = responses(404, 412, 422, 428)


@router.post("/sets/{rule_set_hash}/shadow", operation_id="shadow_rules", responses=_CHANGES)
def shadow(
    rule_set_hash: Digest, caller: Editor, desk: AtDesk, request: Request, response: Response, if_match: IfMatch = ""
) -> ReleaseBody:
    """Try a set beside the one in force: it is asked behind every decision and reported, and decides nothing."""
    return _change(desk, caller, request, response, if_match, lambda book, actor, at: book.shadow(actor, rule_set_hash, at))


@router.post("/sets/{rule_set_hash}/promote", operation_id="promote_rules", responses=_CHANGES)
def promote(
    rule_set_hash: Digest,
    caller: Editor,
    desk: AtDesk,
    request: Request,
    response: Response,
    if_match: IfMatch = "",
    traffic_percentage: Share = _ALL,
) -> ReleaseBody:
    """Put a kept set in force, in stream and API, without a restart; for a share of the cards where one is given."""

    def promoted(book: RuleBook, actor: Actor, at: int) -> Release:
        if traffic_percentage < _ALL:
            return book.roll_out(actor, rule_set_hash, traffic_percentage, at)
        return book.promote(actor, rule_set_hash, at)

    return _change(desk, caller, request, response, if_match, promoted)


@router.post("/rollback", operation_id="roll_back_rules", responses=responses(400, 404, 412, 422, 428))
def roll_back(
    body: RollbackBody, caller: Editor, desk: AtDesk, request: Request, response: Response, if_match: IfMatch = ""
) -> ReleaseBody:
    """Take a rollout back to a shadow; without one, or with a version, put an earlier set back in force under a new number."""
    return _change(desk, caller, request, response, if_match, lambda book, actor, at: book.roll_back(actor, body.version, at))


@router.post("/withdraw", operation_id="withdraw_rules", responses=_CHANGES)
def withdraw(caller: Editor, desk: AtDesk, request: Request, response: Response, if_match: IfMatch = "") -> ReleaseBody:
    """Try no set any more: the one in force decides for all cards, with nothing beside it."""
    return _change(desk, caller, request, response, if_match, lambda book, actor, at: book.withdraw(actor, at))


def _change(
    desk: Desk,
    caller: Caller,
    request: Request,
    response: Response,
    if_match: str,
    change: Callable[[RuleBook, Actor, int], Release],
) -> ReleaseBody:
    desk.operator(caller)
    if not if_match:
        raise Problem(428, "if_match_needed", "say with If-Match which version was looked at")
    looked_at = int(if_match.strip('"'))
    try:
        release = _known(lambda: change(desk.book, actor_of(caller, request), looked_at))
    except RulesConflict as conflict:
        raise Problem(412, "other_version", "another version is in force", headers={"ETag": _tag(conflict.version)}) from None
    response.headers["ETag"] = _tag(release.version)
    return ReleaseBody(**asdict(release))


def _compiled(body: RuleSetBody) -> RuleSet:
    return RuleSet.parse(body.model_dump(), CATALOGUE.index)


def _known(look: Callable[[], Any]) -> Any:
    try:
        return look()
    except NothingToUndo as nothing:
        raise Problem(404, "not_found", str(nothing)) from None
    except UnknownRules:
        raise Problem(404, "not_found") from None


def _tag(version: int) -> str:
    return f'"{version}"'


def _plain(rules: RuleSet) -> list[RuleBody]:
    return [RuleBody(**rule.to_plain()) for rule in rules.rules]
