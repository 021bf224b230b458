"The commands and their options, as each says them itself."
import argparse
import os

TITLE = '''# Commands

`landslide-nb COMMAND --help` prints the same. Each error is one sentence, and the exit code is then 1.
'''

def parsers():
    "Command -> its parser"
    from landslide_nb.cli import parser
    chosen = next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return chosen.choices

def page():
    "The page"
    os.environ['COLUMNS'] = '88'
    lines = [TITLE]
    for name, one in parsers().items(): lines += [f'## {name}', '', '```text', one.format_help().rstrip(), '```', '']
    return '\n'.join(lines)
