"""``job``, ``rules`` and ``model``: what is in force in the running system, and how it is changed."""

from __future__ import annotations

import argparse
import getpass
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cli import backtest
from cli.arguments import FINDING, GOOD, MISUSE, add_command, add_group, add_maturity, count, existing_file, percentage
from cli.output import print_error, print_lines, print_table, progress_bar, report, stopwatch
from cli.shadow import add_report, print_report

if TYPE_CHECKING:
    from collections.abc import Callable

    from cli.arguments import Commands
    from infra.stack import Stack
    from serving.change_log import Actor
    from serving.rule_book import Release, RuleBook
    from training.train import TrainingReport

__all__ = ["register"]


_RESCALE = """\
Stop the scoring job with a savepoint and go on from it on N TaskManagers, which are started and stopped to match: one for each shard of
its state or fewer, or two for each shard, which then work one behind the other.  Nothing is lost or repeated.  The choice is kept with
the job's state: a later `up`, or `down` and `up`, comes back with N, whatever FRAUDGUARD_TASKMANAGERS says.  If anything fails, the job
goes on as before, and the message says so.
"""


_UPGRADE = """\
Stop the scoring job with a savepoint, restart the TaskManagers, which keep the Python modules that they have once loaded, and go on
with the code of this checkout.  Before anything is stopped the new job is laid out and compared with the running job's state: one that
would leave some of it behind, or reads another format, is refused.  If the new job does not run, it is stopped with its state kept,
and the message says what failed and how to go on.
"""


_TRAIN = """\
Train a model and publish it without promoting it: on generated history, or with --ledger or --lake on decisions that were recorded,
with their features as they were served and what labels say of them.  The oldest teach, the next ones calibrate, the newest measure.
What was stopped and has no label teaches nothing.
"""


def register(commands: Commands) -> None:
    """Add the commands."""
    job = add_group(commands, "job", "the Flink jobs: state, savepoint, stop, start, rescale, upgrade")
    status = add_command(job, "status", _job_status, "state of the job and its tasks (exit status 1 unless all run)")
    save = add_command(job, "savepoint", _job_savepoint, "write a savepoint while the job goes on")
    stop = add_command(job, "stop", _job_stop, "stop the job with a savepoint, from which `job start` continues")
    stop.add_argument("--discard", action="store_true", help="without a savepoint: the next start begins with empty state")
    start = add_command(job, "start", _job_start, "start the job from its savepoint or newest checkpoint")
    start.add_argument("--window-s", type=int, metavar="N", help="of a first start of patterns: length of its windows (default 300)")
    rescale = add_command(job, "rescale", _job_rescale, "run the scoring job on N TaskManagers, from a savepoint", description=_RESCALE)
    rescale.add_argument("taskmanagers", type=count, metavar="N", help="1 up to the number of shards, or twice that number")
    add_command(job, "upgrade", _job_upgrade, "run the scoring job with the code of this checkout, from a savepoint", description=_UPGRADE)
    start.add_argument(
        "--accept-refused", action="store_true", help="score: do not stop however many records are refused, until the next start"
    )
    for parser in (status, save, stop, start):
        parser.add_argument("job", nargs="?", choices=("score", "patterns"), default="score", help="which one (default score)")

    patterns = add_group(commands, "patterns", "patterns over many events of the ledger")
    scan = add_command(
        patterns, "scan", _patterns_scan, "search the committed ledger, window by window (exit status 1 when anything is found)"
    )
    scan.add_argument("--window-s", type=int, default=300, metavar="N", help="length of the windows (default 300)")

    rules = add_group(commands, "rules", "the rules: list, validate, draft, shadow, backtest, promote, rollback, withdraw, history")
    add_command(rules, "list", _rules_list, "the rules in force")
    validate = add_command(rules, "validate", _rules_validate, "check a rule file (exit status 1 when it cannot be used)")
    validate.add_argument("file", type=existing_file)
    draft = add_command(rules, "draft", _rules_draft, "keep a rule file under its hash, for others to look at and try")
    draft.add_argument("file", type=existing_file)
    shadow = add_command(rules, "shadow", _rules_shadow, "try a draft behind every decision: reported, and deciding nothing")
    add_report(shadow, "draft")
    backtest.register(rules)
    promote = add_command(rules, "promote", _rules_promote, "put a rule file in force in the running job, without a restart")
    promote.add_argument("file", type=existing_file)
    _add_percent(promote)
    rollback = add_command(rules, "rollback", _rules_rollback, "take a rollout back to a shadow, or put an earlier version back in force")
    rollback.add_argument("--version", type=int, default=None, metavar="N", help="which one (default: the rollout's, or the set before)")
    add_command(rules, "withdraw", _rules_withdraw, "try no set any more: the one in force decides for all cards")
    add_command(rules, "history", _rules_history, "who changed rules and models, when and how (exit status 1 when it was tampered with)")

    model = add_group(commands, "model", "the models: list, train, shadow, promote, rollback, withdraw")
    add_command(model, "list", _model_list, "published models and their metrics")
    train = add_command(
        model, "train", _model_train, "train on generated or recorded history and publish, without promoting", description=_TRAIN
    )
    recorded = train.add_mutually_exclusive_group()
    recorded.add_argument("--ledger", action="store_true", help="on the decisions that the running stack's ledger holds")
    recorded.add_argument("--lake", action="store_true", help="on those that the lake keeps")
    train.add_argument("--rows", type=count, default=150_000, metavar="N", help="how many to generate (default 150000)")
    train.add_argument("--seed", type=int, default=8)
    add_maturity(train)
    choose = add_command(model, "promote", _model_promote, "put a published model in force in the running job, without a restart")
    challenge = add_command(model, "shadow", _model_shadow, "try a published model behind every decision: reported, and deciding nothing")
    choose.add_argument("sha256", help="its SHA-256, or the start of it")
    add_report(challenge, "model")
    _add_percent(choose)
    add_command(model, "rollback", _model_rollback, "take a rollout back to a shadow, or put the model before back in force")
    add_command(model, "withdraw", _model_withdraw, "try no model any more: the one in production decides for all cards")


def _add_percent(promote: argparse.ArgumentParser) -> None:
    help_ = "decide for P %% of the cards, always the same ones; what is in force keeps the others (default 100: all)"
    promote.add_argument("--percent", type=percentage, default=100.0, metavar="P", help=help_)


def _stack() -> Stack:
    from infra.stack import Stack  # noqa: PLC0415 - help works without any package

    return Stack()


def _job_name(arguments: argparse.Namespace) -> str:
    from flink_jobs.pattern_settings import PATTERN_JOB_NAME  # noqa: PLC0415
    from flink_jobs.settings import JOB_NAME  # noqa: PLC0415

    return PATTERN_JOB_NAME if arguments.job == "patterns" else JOB_NAME


def _done(arguments: argparse.Namespace, payload: dict[str, Any], line: str) -> int:
    """Report what a command has done: an object, or a line for people."""
    report(payload, as_json=arguments.json, people=lambda: print_lines([line]))
    return GOOD


def _on_its_way(version: int | str, rule_set_hash: str) -> str:
    return f"version {version} is on its way to the job; decisions will carry {rule_set_hash}"


def _tried(release: Release) -> str:
    if release.challenger_hash is None:
        return ""
    return f"; {release.challenger_hash} decides for {release.traffic_percentage:g} % of the cards and is asked about the others"


def _job_status(arguments: argparse.Namespace) -> int:
    from infra.scoring_job import newest_failure, state_of  # noqa: PLC0415

    plan = _stack().plan
    state = state_of(plan, _job_name(arguments))
    good = state.state == "RUNNING" and set(state.tasks) <= {"RUNNING", "FINISHED"}
    failure = "" if good else newest_failure(plan, state)
    lines = [f"{state.state}  {state.job_id or ''}  {state.tasks}", *([f"last failure: {failure}"] if failure else [])]
    report({**asdict(state), "failure": failure or None}, as_json=arguments.json, people=lambda: print_lines(lines))
    return GOOD if good else FINDING


def _job_savepoint(arguments: argparse.Namespace) -> int:
    from infra.scoring_job import savepoint  # noqa: PLC0415

    location = savepoint(_stack().plan, stop=False, name=_job_name(arguments))
    return _done(arguments, {"savepoint": location}, location)


def _job_stop(arguments: argparse.Namespace) -> int:
    from infra.scoring_job import stop  # noqa: PLC0415

    location = stop(_stack().plan, with_savepoint=not arguments.discard, name=_job_name(arguments))
    what = f"stopped with savepoint {location}" if location else "stopped; its state is given up"
    return _done(arguments, {"stopped": True, "savepoint": location}, what)


def _job_start(arguments: argparse.Namespace) -> int:
    from infra import pattern_job, scoring_job  # noqa: PLC0415

    if arguments.job == "patterns":
        state = pattern_job.ensure_running(_stack(), stopwatch(), window_s=arguments.window_s)
    else:
        state = scoring_job.ensure_running(_stack().plan, stopwatch(), accept_refused=arguments.accept_refused)
    return _done(arguments, asdict(state), f"{state.state}  {state.job_id}")


def _job_rescale(arguments: argparse.Namespace) -> int:
    from infra.job_change import rescale  # noqa: PLC0415

    done = rescale(_stack(), arguments.taskmanagers, stopwatch())
    what = (
        f"it runs on {done.after} TaskManagers already"
        if done.savepoint is None
        else f"{done.before} to {done.after} TaskManagers, {done.down_s:.1f} s without a job, from {done.savepoint}"
    )
    return _done(arguments, asdict(done), what)


def _job_upgrade(arguments: argparse.Namespace) -> int:
    from infra.job_change import upgrade  # noqa: PLC0415

    done = upgrade(_stack(), stopwatch())
    what = f"code {done.before} to {done.after}, {done.down_s:.1f} s without a job, from {done.snapshot}"
    return _done(arguments, asdict(done), what)


def _patterns_scan(arguments: argparse.Namespace) -> int:
    from infra.pattern_job import scan  # noqa: PLC0415

    found = scan(_stack().plan, window_s=arguments.window_s)
    rows = [(alert.severity, alert.reason, alert.details) for alert in found.alerts]
    title = f"{found.events} events in {found.windows} windows"
    report(asdict(found), as_json=arguments.json, people=lambda: print_table(("severity", "reason", "details"), rows, title=title))
    return FINDING if found.alerts else GOOD


def _rules_list(arguments: argparse.Namespace) -> int:
    from infra.releases import rules_in_force  # noqa: PLC0415

    release, rules = rules_in_force(_stack().plan)
    payload = {
        "version": release.version,
        "hash": rules.hash,
        "challenger_hash": release.challenger_hash,
        "traffic_percentage": release.traffic_percentage,
        "rules": [rule.to_plain() for rule in rules.rules],
    }
    rows = [(rule.id, rule.state, rule.severity, rule.score, rule.floor.name if rule.floor else "", rule.when) for rule in rules.rules]
    heading = f"version {release.version}, hash {rules.hash}{_tried(release)}"
    report(
        payload,
        as_json=arguments.json,
        people=lambda: print_table(("rule", "state", "severity", "score", "floor", "when"), rows, title=heading),
    )
    return GOOD


def _rules_validate(arguments: argparse.Namespace) -> int:
    from fraud.catalogue import CATALOGUE  # noqa: PLC0415
    from fraud.rules import InvalidRules  # noqa: PLC0415
    from serving.rules_file import load_rules  # noqa: PLC0415

    try:
        rules = load_rules(arguments.file, CATALOGUE.index)
    except InvalidRules as error:
        problem = str(error)
        report({"valid": False, "problem": problem}, as_json=arguments.json, people=lambda: print_error(problem))
        return FINDING
    payload = {"valid": True, "rules": len(rules.rules), "hash": rules.hash}
    return _done(arguments, payload, f"{len(rules.rules)} rules, hash {rules.hash}")


def _rules_promote(arguments: argparse.Namespace) -> int:
    from fraud.rules import InvalidRules  # noqa: PLC0415
    from infra.releases import promote_rules  # noqa: PLC0415

    try:
        release = promote_rules(_stack().plan, arguments.file, author=getpass.getuser(), traffic_percentage=arguments.percent)
    except InvalidRules as error:
        print_error(str(error))
        return FINDING
    return _done(arguments, asdict(release), _of_the_cards(_on_its_way(release.version, release.identity), release.traffic_percentage))


def _rules_draft(arguments: argparse.Namespace) -> int:
    from fraud.catalogue import CATALOGUE  # noqa: PLC0415
    from fraud.rules import InvalidRules  # noqa: PLC0415
    from infra.application import operator, rule_book  # noqa: PLC0415
    from serving.rules_file import load_rules  # noqa: PLC0415

    try:
        rules = load_rules(arguments.file, CATALOGUE.index)
    except InvalidRules as error:
        print_error(str(error))
        return FINDING
    draft = rule_book(_stack().plan).draft(operator(getpass.getuser()), rules)
    return _done(arguments, asdict(draft), draft.rule_set_hash)


def _rules_shadow(arguments: argparse.Namespace) -> int:
    if arguments.report:
        return print_report(arguments, "rules")
    if not arguments.hash:
        return _nothing_to_try()
    return _released(arguments, lambda book, actor: book.shadow(actor, book.find(arguments.hash)))


def _nothing_to_try() -> int:
    print_error("say by its hash what to try, or --report")
    return MISUSE


def _rules_rollback(arguments: argparse.Namespace) -> int:
    return _released(arguments, lambda book, actor: book.roll_back(actor, arguments.version))


def _rules_withdraw(arguments: argparse.Namespace) -> int:
    return _released(arguments, lambda book, actor: book.withdraw(actor))


def _released(arguments: argparse.Namespace, change: Callable[[RuleBook, Actor], Release]) -> int:
    from infra.application import operator, rule_book  # noqa: PLC0415
    from serving.rule_book import UnknownRules  # noqa: PLC0415

    try:
        release = change(rule_book(_stack().plan), operator(getpass.getuser()))
    except UnknownRules as error:
        print_error(str(error))
        return FINDING
    line = _on_its_way(release.version, release.rule_set_hash) + _tried(release)
    return _done(arguments, asdict(release), line)


def _rules_history(arguments: argparse.Namespace) -> int:
    from datetime import UTC, datetime  # noqa: PLC0415

    from infra.application import change_log  # noqa: PLC0415

    def at(time_ms: int) -> str:
        return datetime.fromtimestamp(time_ms / 1e3, UTC).isoformat(timespec="seconds")

    log = change_log(_stack().plan)
    entries = [{name: value for name, value in asdict(entry).items() if name != "body"} for entry in log.entries]
    rows = [
        (entry.seq, at(entry.time_ms), entry.actor, entry.action, entry.target[:16], "" if entry.version is None else entry.version)
        for entry in log.entries
    ]
    report(
        {"entries": entries, "faults": log.faults},
        as_json=arguments.json,
        people=lambda: print_table(("number", "time", "who", "action", "target", "version"), rows),
    )
    for fault in log.faults:
        print_error(fault)
    return FINDING if log.faults else GOOD


def _model_list(arguments: argparse.Namespace) -> int:
    from infra.releases import published_models  # noqa: PLC0415
    from infra.scoring_job import models_dir  # noqa: PLC0415

    models = published_models(models_dir(_stack().layout))
    rows = [
        (
            model["status"],
            f"{model['traffic_percentage']:g} %",
            model["sha256"],
            *(f"{name} {value:.4g}" for name, value in list(model["metrics"].items())[:4]),
        )
        for model in models
    ]
    report({"models": models}, as_json=arguments.json, people=lambda: print_table(("status", "cards", "sha256", "", "", "", ""), rows))
    return GOOD


def _model_train(arguments: argparse.Namespace) -> int:
    from training.train import NotTrainable  # noqa: PLC0415

    try:
        done = _trained_on_record(arguments) if arguments.ledger or arguments.lake else _trained_on_generated(arguments)
    except NotTrainable as error:
        print_error(str(error))
        return FINDING
    data = "lake" if arguments.lake else "ledger" if arguments.ledger else "generated"
    payload = {"sha256": done.sha256, "metrics": dict(done.metrics), "data": data, "training": dict(done.manifest.training)}
    report(payload, as_json=arguments.json, people=lambda: print_lines([done.sha256, *(f"  {k} {v:.5g}" for k, v in done.metrics.items())]))
    return GOOD


def _trained_on_generated(arguments: argparse.Namespace) -> TrainingReport:
    from infra.application import enricher_of  # noqa: PLC0415
    from infra.first_model import train_first_model  # noqa: PLC0415
    from infra.scoring_job import models_dir  # noqa: PLC0415
    from serving.clock import now_ms  # noqa: PLC0415

    stack = _stack()
    return train_first_model(
        models_dir(stack.layout),
        enricher_of(stack),
        say=stopwatch(),
        start_ms=now_ms(),
        rows=arguments.rows,
        seed=arguments.seed,
    )


def _trained_on_record(arguments: argparse.Namespace) -> TrainingReport:
    from infra.history import event_history  # noqa: PLC0415
    from infra.retraining import train_on_record  # noqa: PLC0415
    from infra.scoring_job import models_dir  # noqa: PLC0415

    plan = _stack().plan
    source = event_history(plan, from_lake=arguments.lake)
    with progress_bar("reading", source.count()) as on_read:
        return train_on_record(
            models_dir(plan.layout), source, maturity_ms=arguments.maturity_ms, seed=arguments.seed, say=stopwatch(), on_read=on_read
        )


def _model_promote(arguments: argparse.Namespace) -> int:
    from infra.releases import promote_model, try_model  # noqa: PLC0415

    plan, percent, author = _stack().plan, arguments.percent, getpass.getuser()
    whole = percent == 100.0
    release = promote_model(plan, arguments.sha256, author=author) if whole else try_model(plan, arguments.sha256, percent, author=author)
    return _done(arguments, asdict(release), _of_the_cards(f"model {release.identity} is on its way to the job", percent))


def _model_shadow(arguments: argparse.Namespace) -> int:
    from infra.releases import try_model  # noqa: PLC0415

    if arguments.report:
        return print_report(arguments, "model")
    if not arguments.hash:
        return _nothing_to_try()
    release = try_model(_stack().plan, arguments.hash, 0.0, author=getpass.getuser())
    return _done(arguments, asdict(release), f"model {release.identity} will be asked behind every decision")


def _model_rollback(arguments: argparse.Namespace) -> int:
    from infra.releases import roll_back_model  # noqa: PLC0415

    release = roll_back_model(_stack().plan, author=getpass.getuser())
    return _done(
        arguments, asdict(release), _of_the_cards(f"model {release.identity} is on its way to the job", release.traffic_percentage)
    )


def _model_withdraw(arguments: argparse.Namespace) -> int:
    from infra.releases import withdraw_model  # noqa: PLC0415

    release = withdraw_model(_stack().plan, author=getpass.getuser())
    return _done(arguments, asdict(release), f"model {release.identity} decides for all cards")


def _of_the_cards(text: str, traffic_percentage: float) -> str:
    return text if traffic_percentage == 100.0 else f"{text}, for {traffic_percentage:g} % of the cards"
