"""The command line: `synth-pipeline run CONFIG` and its sisters.

Exit codes: 0 done; 1 the study failed; 2 the user's input is wrong; 3 finished, but some classes
failed or lost photos. Everything heavy is imported by the command that needs it: `--help` loads no
torch.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from flows.interrupts import interrupts
from flows.root_folder import only_for_us
from flows.surroundings import bypass_proxies_here
from synth_pipeline import __version__
from synth_pipeline.disk_errors import sentence_of
from synth_pipeline.errors import InputError, SynthPipelineError
from synth_pipeline.places import from_home
from synth_pipeline.shipped import find_config

DONE, FAILED, WRONG_INPUT, SOME_FAILED = 0, 1, 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; the entry point `synth-pipeline`."""
    options = _parser().parse_args(arguments)
    # Before torch: its threads burn their core for a third of a second while they wait for each
    # other, and beside another busy process they wait at every layer: a step of 80 ms took 3.9 s.
    # With so many turns it takes 0.4 s there, and 84 ms where nobody disturbs (two cores).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if hasattr(options, "root"):
        only_for_us()
    bypass_proxies_here()
    # No process that is started, by whatever library, imports modules of the current folder, which
    # an empty entry means, too.
    os.environ["PYTHONSAFEPATH"] = "1"
    places = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, places))

    def last_words(sentence: str) -> None:
        print(f"\nsynth-pipeline: {sentence}", file=sys.stderr, flush=True)

    with interrupts(last_words, f"stopped; {options.stopped}") as stopped:
        try:
            _check_root(getattr(options, "root", Path()))
            if hasattr(options, "config"):
                options.config = _found(options.config)
            code = options.command(options)
            sys.stdout.flush()
        except BaseException as error:
            # Whatever a signal has become on its way here.
            if stopped.happened:
                stopped.end_now()
            code = _exit_code(error, options)
        if stopped.happened and code in (FAILED, WRONG_INPUT):
            stopped.end_now()
        return code


def _exit_code(error: BaseException, options: argparse.Namespace) -> int:
    """What a command's error means, which is said if it is one of ours; others are raised."""
    if isinstance(error, BrokenPipeError):
        # Whoever read the output has enough (`| head`). Python must not flush it again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    if isinstance(error, SynthPipelineError):
        print(f"synth-pipeline: {error}", file=sys.stderr)
        return WRONG_INPUT if isinstance(error, InputError) else FAILED
    told = sentence_of(error, _place_of(error, options)) if isinstance(error, Exception) else None
    if told is None:
        raise error
    print(f"synth-pipeline: {told}", file=sys.stderr)
    return WRONG_INPUT if isinstance(told, InputError) else FAILED


def _place_of(error: Exception, options: argparse.Namespace) -> str:
    """What could not be read or written; a name that the user did not give is not shown."""
    given = [str(value.absolute()) for value in vars(options).values() if isinstance(value, Path)]
    name = getattr(error, "filename", None)
    if isinstance(name, str) and any(Path(name).absolute().is_relative_to(g) for g in given):
        return name
    return f"A file or folder of {' or '.join(given)}"


def _run(options: argparse.Namespace) -> int:
    from flows.running import run_study

    return run_study(options.config, options.overrides, options.root, options.until)


def _plan(options: argparse.Namespace) -> int:
    from flows.planning import show_plan

    return show_plan(options.config, options.overrides, options.root, options.why)


def _cases(options: argparse.Namespace) -> int:
    from flows import case_commands

    if options.action == "import":
        from flows.running import run_study

        return run_study(options.config, options.overrides, options.root, until="cases")
    if options.action == "ingest":
        return case_commands.ingest_photos(
            options.config, options.overrides, options.root, options.inbox, options.settle
        )
    show = case_commands.check if options.action == "check" else case_commands.list_cases
    return show(options.config, options.overrides, options.root)


def _report(options: argparse.Namespace) -> int:
    from flows.reporting import report_again

    return report_again(options.config, options.overrides, options.root)


def _export(options: argparse.Namespace) -> int:
    from flows.exporting import export

    return export(options)


def _doctor(options: argparse.Namespace) -> int:
    from flows.doctor import examine

    return examine(fetch=options.fetch, root=options.root)


def _up(options: argparse.Namespace) -> int:
    from flows.up import bring_up

    return bring_up(options.root, options.workers, options.slots)


def _phantom(options: argparse.Namespace) -> int:
    from flows import phantom_commands

    command = {
        "make": phantom_commands.make,
        "terms": phantom_commands.terms,
        "train-base": phantom_commands.train_base,
        "train-backbone": phantom_commands.train_backbone,
    }
    return command[options.action](options)


# What a command leaves that is ended by a signal, and how to go on.
_GOES_ON = "what is finished is kept, and the same command goes on from there."
_BEGINS_AGAIN = "nothing half-made is kept, and the same command begins again."
_READS = "nothing was changed, and the same command begins again."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="synth-pipeline",
        description="Train recognisers for rare conditions from a handful of real faces.",
        epilog="Exit codes: 0 done; 1 failed; 2 wrong input; "
        "3 finished, but some classes failed or lost photos.",
    )
    parser.add_argument("--version", action="version", version=f"synth-pipeline {__version__}")
    parser.set_defaults(stopped=_GOES_ON)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = _study_command(commands, "run", "run a study; what is unchanged is not run again", _run)
    run.add_argument("--until", metavar="STAGE", default="report", help="stop after this stage")
    run.add_argument(
        "--engine",
        choices=("inline", "workers"),
        action=_SetEngine,
        help="where the stages run; the same as --set engine=...",
    )

    plan = _study_command(commands, "plan", "say what is cached, what would run, and why", _plan)
    plan.set_defaults(stopped=_READS)
    plan.add_argument("--why", metavar="CLASS", help="only the rows of this class")

    cases = commands.add_parser("cases", help="real photos: import, check, list, ingest")
    actions = cases.add_subparsers(required=True, dest="action", metavar="ACTION")
    _study_command(actions, "import", "sanitise, register and split the photos", _cases)
    for name, text in (
        ("check", "look at every photo; write nothing"),
        ("list", "classes with their numbers of photos"),
    ):
        _study_command(actions, name, text, _cases).set_defaults(stopped=_READS)

    ingest = _study_command(actions, "ingest", "take new photos out of an inbox", _cases)
    ingest.add_argument("--inbox", metavar="DIR", help="folder or s3://...; default: cases.inbox")
    ingest.add_argument(
        "--settle",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="take files that did not change for so long; default: 10",
    )

    _study_command(commands, "report", "figures and HTML again, from what is stored", _report)

    export = _study_command(
        commands, "export", "synthetic images, adapters and classifiers, with cards", _export
    )
    export.set_defaults(stopped=_BEGINS_AGAIN)
    export.add_argument("folder", type=_path, metavar="DIR", help="to be made; never overwritten")
    export.add_argument(
        "--images", action="store_true", help="with a face and no copies; loads in `datasets`"
    )
    export.add_argument(
        "--adapters", action="store_true", help="of classes that passed the copy audit"
    )
    export.add_argument(
        "--classifiers", action="store_true", help="every fold; reloads with timm.create_model"
    )
    export.add_argument(
        "--class",
        dest="classes",
        metavar="CLASS",
        action="append",
        default=[],
        help="only its images and adapter; may be given again",
    )
    export.add_argument(
        "--run",
        dest="runs",
        metavar="RUN",
        action="append",
        default=[],
        help='only its classifiers, such as "resnet18 synthetic 48"; may be given again',
    )

    up = commands.add_parser(
        "up", help="a server, deployments and workers on this machine, until Ctrl-C"
    )
    up.add_argument("--workers", type=_at_least_one, metavar="N", help="default: one for each GPU")
    up.add_argument(
        "--slots", type=_at_least_one, default=1, metavar="N", help="classes at a time on each"
    )
    up.add_argument(
        "--root", type=_path, default=Path("results"), metavar="DIR", help="default: ./results"
    )
    up.set_defaults(command=_up, stopped=_BEGINS_AGAIN)

    doctor = commands.add_parser("doctor", help="what is missing on this machine, and its mending")
    doctor.add_argument("--fetch", action="store_true", help="download the landmark model")
    doctor.add_argument(
        "--root",
        type=_path,
        default=Path("results"),
        metavar="DIR",
        help="whose server is examined",
    )
    doctor.set_defaults(command=_doctor, stopped=_BEGINS_AGAIN)

    phantom = commands.add_parser("phantom", help="procedural faces and the embedded base model")
    actions = phantom.add_subparsers(required=True, dest="action", metavar="ACTION")
    made = actions.add_parser("make", help="render classes of phantoms with known phenotypes")
    made.add_argument("folder", type=_path, metavar="DIR")
    made.add_argument("--benchmark", metavar="NAME", help="phantom-20 or phantom-103, as they are")
    made.add_argument("--conditions", type=_path, metavar="FILE", help="your own, by HPO terms")
    made.add_argument("--classes", type=int, metavar="N", help="conditions to draw; default: 20")
    made.add_argument("--per-class", type=int, metavar="N", help="training images; default: 8")
    made.add_argument("--test-per-class", type=int, metavar="N", help="held-out; default: 20")
    made.add_argument("--size-px", type=int, metavar="N", help="width and height; default: 256")
    made.add_argument("--seed", type=int, metavar="N", help="same seed, same bytes; default: 0")
    made.set_defaults(command=_phantom, stopped=_BEGINS_AGAIN)
    terms = actions.add_parser("terms", help="the HPO terms that phantoms can show")
    terms.set_defaults(command=_phantom, stopped=_READS)
    trained = actions.add_parser("train-base", help="train the embedded base model, or go on")
    trained.add_argument("folder", type=_path, metavar="DIR", help="the pipeline's folder to write")
    trained.add_argument("--work-dir", type=_path, required=True, help="checkpoints and renders")
    trained.set_defaults(command=_phantom)
    learned = actions.add_parser(
        "train-backbone", help="train a recogniser's embedded first weights, or go on"
    )
    learned.add_argument(
        "file", type=_path, metavar="FILE", help="NAME.safetensors, NAME as in timm"
    )
    learned.add_argument("--work-dir", type=_path, required=True, help="checkpoints and renders")
    learned.set_defaults(command=_phantom)
    return parser


def _path(text: str) -> Path:
    """A shell replaces `~` at the beginning of a word only, so not in `--root=~/results`."""
    return Path(from_home(text))


def _found(config: Path) -> Path:
    found = find_config(config)
    if found != config:
        print(f"synth-pipeline: {config} is taken from the package: {found}", file=sys.stderr)
    return found


def _check_root(root: Path) -> None:
    """Prefect keeps the root's path as a parameter of its runs, in JSON."""
    try:
        str(root.absolute()).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(root.absolute()).decode(errors="replace")
        raise InputError(f"--root {shown}: this is not UTF-8; choose another folder.") from None


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 86400 seconds")
    return seconds


def _at_least_one(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


class _SetEngine(argparse.Action):
    """`--engine X` is `--set engine=X`, so that one place validates it."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:  # type: ignore[no-untyped-def]
        namespace.overrides = [*namespace.overrides, f"engine={values}"]


def _study_command(commands, name: str, text: str, command) -> argparse.ArgumentParser:  # type: ignore[no-untyped-def]
    parser = commands.add_parser(name, help=text, description=text)
    parser.add_argument(
        "config",
        type=_path,
        metavar="CONFIG",
        help="a study's YAML file, or a name such as quickstart",
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="a.b=c",
        action="append",
        default=[],
        help="override one value; may be given again",
    )
    parser.add_argument(
        "--root", type=_path, default=Path("results"), metavar="DIR", help="default: ./results"
    )
    parser.set_defaults(command=command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
