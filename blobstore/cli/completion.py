"""``blobstore completion``."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blobstore.cli.output import add_command

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLE = """example:
  blobstore completion bash
  blobstore completion bash | head -3

For one session: source <(blobstore completion bash). For all: write the script to
~/.local/share/bash-completion/completions/blobstore (bash) or ~/.config/fish/completions/blobstore.fish (fish), or put
source <(blobstore completion zsh) into ~/.zshrc (zsh).

The script completes commands, options, their values and paths. It has all of them inside: pressing Tab runs nothing.
Print it again after an update."""

_ZSH = "autoload -U +X compinit bashcompinit && compinit && bashcompinit\n"
_BASH = """_blobstore() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} command=${{COMP_WORDS[1]}} words= choices=
  COMPREPLY=()
  if [[ $COMP_CWORD == 1 ]]; then
    COMPREPLY=($(compgen -W {commands} -- "$word"))
    return
  fi
  case $command in
{cases}
  esac
  if [[ $choices ]]; then
    COMPREPLY=($(compgen -W "$choices" -- "$word"))
  elif [[ $word == -* ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$word"))
  fi
}}
complete -o bashdefault -o default -F _blobstore blobstore
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    text = "Print a script with which a shell completes this command line."
    parser = add_command(commands, "completion", run, text, EXAMPLE)
    parser.add_argument("shell", metavar="bash|zsh|fish", choices=("bash", "zsh", "fish"), help="for which shell")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from blobstore.cli import parser  # noqa: PLC0415 (it imports this module)

    commands = list(_commands(parser()))
    if options.shell == "fish":
        print("\n".join(_fish(commands)))
    else:
        print((_ZSH if options.shell == "zsh" else "") + _bash(commands), end="")
    return 0


@dataclass(frozen=True)
class _Command:
    """A command as a shell completes it: its options, and for each and for the first argument the possible values."""

    name: str
    help: str
    options: list[tuple[list[str], str]]
    choices: dict[str, list[str]]


def _commands(top: argparse.ArgumentParser) -> Iterator[_Command]:
    (actions,) = _groups(top)
    helps = {action.dest: action.help or "" for action in actions._choices_actions}  # noqa: SLF001 (argparse has no other way)
    for name, parser in actions.choices.items():
        inside = [*_groups(parser)]
        parsers = [parser, *(one for group in inside for one in group.choices.values())]
        options: dict[tuple[str, ...], str] = {}
        choices = {"": [one for group in inside for one in group.choices]}
        for action in (action for one in parsers for action in one._actions):  # noqa: SLF001 (the same)
            if action.option_strings:
                options[tuple(action.option_strings)] = action.help or ""
            if action.choices and action.option_strings and action.metavar is None:
                choices |= {option: [str(one) for one in action.choices] for option in action.option_strings}
            elif action.choices and not isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 (the same)
                choices[""] = [*choices[""], *(str(one) for one in action.choices if not action.option_strings)]
        yield _Command(name, helps[name], [([*names], text) for names, text in options.items()], choices)


def _groups(parser: argparse.ArgumentParser) -> Iterator[argparse._SubParsersAction[argparse.ArgumentParser]]:
    yield from (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))  # noqa: SLF001


def _bash(commands: list[_Command]) -> str:
    cases = []
    for command in commands:
        words = " ".join(name for names, _ in command.options for name in names)
        lines = [f"    {command.name}) words={shlex.quote(words)}"]
        if command.choices[""]:
            lines.append(f"      [[ $COMP_CWORD == 2 ]] && choices={shlex.quote(' '.join(command.choices['']))}")
        values = [(option, values) for option, values in command.choices.items() if option]
        if values:
            lines.append("      case $before in")
            lines += [f"        {option}) choices={shlex.quote(' '.join(values))} ;;" for option, values in values]
            lines.append("      esac")
        cases.append("\n".join([*lines, "      ;;"]))
    return _BASH.format(commands=shlex.quote(" ".join(one.name for one in commands)), cases="\n".join(cases))


def _fish(commands: list[_Command]) -> Iterator[str]:
    def quoted(text: str) -> str:
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("%%", "%") + "'"

    for command in commands:
        yield f"complete -c blobstore -f -n __fish_use_subcommand -a {command.name} -d {quoted(command.help)}"
        seen = f"complete -c blobstore -n '__fish_seen_subcommand_from {command.name}'"
        if command.choices[""]:
            yield f"{seen} -f -a {quoted(' '.join(command.choices['']))}"
        for names, text in command.options:
            flags = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in names)
            values = next((command.choices[name] for name in names if name in command.choices), [])
            given = f" -x -a {quoted(' '.join(values))}" if values else ""
            yield f"{seen} {flags}{given} -d {quoted(text)}"
