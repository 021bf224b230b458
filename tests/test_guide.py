"What the guide tells a stranger to type is what the package understands today: commands, options, verbs, parameters, files."
import ast, re, shlex
from pathlib import Path
import pytest
from landslide_nb.cli import parser
from landslide_nb.verbs import VERBS

root = Path(__file__).parents[1]
PAGES = [*sorted((root/'docs'/'pages').rglob('*.md')), root/'README.md', root/'landslide_nb'/'weights'/'base.md',
         root/'benchmarks'/'README.md']
SAID = {'W S E N': '1 2 3 4', 'DAY': '2024-05-23'} # words that stand for a person's own
name_of = dict(ids=lambda path: path.relative_to(root).as_posix())

def commands(path):
    "Every `landslide-nb ...` of a page: lines of code, and words between backquotes"
    text = path.read_text()
    lines = re.findall(r'^ *(?:\$ )?(landslide-nb .+)$', text, re.M) + re.findall(r'`(landslide-nb [^`]+)`', text)
    return [line.split('  #')[0].split(', then')[0].strip() for line in lines]

def filled(line):
    for word, value in SAID.items(): line = line.replace(word, value)
    return re.sub(r'\bN\b', '5', line)

def is_whole(words):
    "A command with what it needs, not only its name as a topic"
    return len(words) > 2 and not {'|', 'COMMAND', '...'} & set(words)

@pytest.mark.parametrize('path', PAGES, **name_of)
def test_every_command_is_understood(path, capsys):
    refused = []
    for line in commands(path):
        words = shlex.split(filled(line))
        if not is_whole(words): continue
        try: parser().parse_args(words[1:])
        except SystemExit as e:
            if e.code: refused.append((line, capsys.readouterr().err.splitlines()[-1]))
    assert refused == []

def test_the_pages_hold_commands(): assert sum(len(commands(path)) for path in PAGES) > 30

def options_of(name=None):
    "All options of one command, or of all"
    chosen = parser()._subparsers._group_actions[0].choices
    return {option for key, one in chosen.items() if name in (None, key)
            for action in one._actions for option in action.option_strings}

OTHERS = {'--scale', '--no-run', '--links', '--no-deps', '--version', '--alone', '--options', '--table'} # of pip, benchmarks and docs/build

@pytest.mark.parametrize('path', PAGES, **name_of)
def test_every_option_exists(path):
    "Also those that stand alone, such as `--track all`; options of other programs stand in lines of their own"
    own = re.findall(r'`(--[\w-]+)', path.read_text())
    assert sorted(set(own) - options_of() - OTHERS) == []

def snippets(path): return re.findall(r'```python\n(.*?)```', path.read_text(), re.S)

def definition(name):
    "A verb as its module defines it, read without importing it"
    tree = ast.parse((root/'landslide_nb'/f"{VERBS[name].replace('.', '/')}.py").read_text())
    return next(node for node in tree.body if getattr(node, 'name', None) == name)

def understood(call):
    "Which keywords a verb does not have"
    found = definition(call.func.attr)
    if not isinstance(found, ast.FunctionDef) or found.args.kwarg: return []
    known = {one.arg for one in (*found.args.args, *found.args.kwonlyargs)}
    return [one.arg for one in call.keywords if one.arg not in known]

def calls(code):
    "Calls of the package's verbs"
    for node in ast.walk(ast.parse(code)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)): continue
        if getattr(node.func.value, 'id', '') == 'ls': yield node

@pytest.mark.parametrize('path', [path for path in PAGES if snippets(path)], **name_of)
def test_every_verb_and_keyword_exists(path):
    for code in snippets(path):
        for call in calls(code):
            assert call.func.attr in VERBS, call.func.attr
            assert understood(call) == [], call.func.attr

@pytest.mark.parametrize('path', [path for path in PAGES if snippets(path)], **name_of)
def test_every_import_exists(path):
    for code in snippets(path):
        for module, name in re.findall(r'from landslide_nb\.([\w.]+) import (\w+)', code):
            assert re.search(rf'^(def|class) {name}\b|^{name} *=', (root/'landslide_nb'/f"{module.replace('.', '/')}.py").read_text(), re.M)

def number(name, module):
    "A constant of a module, read without importing it"
    text = (root/'landslide_nb'/f"{module.replace('.', '/')}.py").read_text()
    return float(re.search(rf'^{name} = ([\d.]+)', text, re.M)[1])

def test_the_method_names_the_constants_of_the_code():
    page = (root/'docs'/'pages'/'method.md').read_text()
    def said(before): return float(re.search(re.escape(before) + r'([\d.]+\d|\d+)', page)[1])
    place = 'mapping.place'
    assert said(r'\pi=') == number('USUAL', place)
    assert said(r'\varepsilon=') == number('NEARLY_NONE', place)
    assert said("p'=") == number('PLACE_THRESHOLD', place)
    assert said('no step larger than ') == number('LARGEST_STEP', place)
