"""docs/commands.md, made from each command's --help.

python -m tests.commands_page > docs/commands.md
"""

from __future__ import annotations

import click

from ffn_edge import cli

_WIDTH = 100


def page() -> str:
    """Return the page."""
    group = cli.cli
    context = click.Context(
        group, info_name="ffn-edge", help_option_names=["-h", "--help"], max_content_width=_WIDTH
    )
    sections = [
        "# Commands\n\nWhat `ffn-edge COMMAND --help` says, in the order of the work. "
        "Made by `python -m tests.commands_page > docs/commands.md`.\n\n"
        "Shell completion, for bash (`zsh_source` and `fish_source` exist too):\n\n"
        '    eval "$(_FFN_EDGE_COMPLETE=bash_source ffn-edge)"',
        _help(group, context),
    ]
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context, max_content_width=_WIDTH)
        sections.append(f"## {name}\n\n{_help(command, inner)}")
        if isinstance(command, click.Group):
            for under in command.list_commands(inner):
                part = command.commands[under]
                below = click.Context(part, info_name=under, parent=inner, max_content_width=_WIDTH)
                sections.append(f"### {name} {under}\n\n{_help(part, below)}")
    return "\n\n".join(sections) + "\n"


def _help(command: click.Command, context: click.Context) -> str:
    context.terminal_width = _WIDTH
    return f"```text\n{command.get_help(context)}\n```"


if __name__ == "__main__":
    print(page(), end="")
