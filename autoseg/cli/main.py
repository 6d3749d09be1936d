"""autoseg NAME ...: runs any of the commands."""

from __future__ import annotations

import importlib
import sys
from difflib import get_close_matches

COMMANDS = {
    "plan_and_preprocess": "check, measure, plan and preprocess a data set",
    "train": "train and validate the folds",
    "predict": "segment new images",
    "evaluate": "score predictions",
    "find_best_configuration": "choose configuration and postprocessing from the cross-validation",
    "ensemble": "average stored probabilities of several predictions",
    "postprocess": "apply the chosen postprocessing",
    "export_model": "write a trained model into one file",
    "import_model": "check a model file, or translate a model of nnU-Net",
    "submission": "pack predictions into one checked archive",
    "report": "a page to look at",
    "doctor": "what is wrong with the machine, a data set or its models",
    "status": "what is done, and the command that continues it",
    "extract_fingerprint": "only check and measure",
    "plan": "only plan",
    "preprocess": "only preprocess",
    "demo": "everything, on phantoms that it makes",
}


def main() -> int:
    """Entry point."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print("usage: autoseg COMMAND ...   (or autoseg_COMMAND ...)\n")
        print("\n".join(f"  {command.ljust(width)}  {what}" for command, what in COMMANDS.items()))
        return 0
    if name == "--version":
        from autoseg import __version__

        print(__version__)
        return 0
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(COMMANDS)}"
        print(f"there is no command '{name}'; {hint}", file=sys.stderr)
        return 2
    return int(importlib.import_module(f"autoseg.cli.{name}").main(sys.argv[2:]))
