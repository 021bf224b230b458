"""The reference, read from the code: what each public name does, its parameters with type, default, meaning and unit.

The meaning of a parameter is the comment beside it (a docment). Sphinx's own reader does not see comments, so the pages
are made here, from the text of the modules; nothing is imported.
"""
import ast
import io
import json
import re
import tokenize
from dataclasses import dataclass, field
from functools import cache

from book import anchor, by_chapter, story
from modules import imports_of, module_of, modules, source_of, summary_of

@dataclass(frozen=True)
class Parameter:
    name:str    # with its stars
    type:str    # as written
    default:str # as written; '' if there is none
    says:str    # the comment beside it

@dataclass(frozen=True)
class Entry:
    "A public name"
    kind:str # function | method | class | data
    name:str
    says:str # docstring
    parameters:tuple = ()
    returns:Parameter|None = None
    members:tuple = field(default=())
    value:str = ''

def comments_of(source):
    "Line number -> its comment"
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip('#').strip() for token in tokens if token.type == tokenize.COMMENT}

def plain(node):
    "A type as a person writes it"
    if node is None: return ''
    quoted = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return node.value if quoted else ast.unparse(node).replace("'", '')

def code(node): return '' if node is None else ast.unparse(node)

def said(line, comments, only):
    "The comment of a line, if the line holds one parameter only"
    return comments.get(line, '') if only else ''

def parameters_of(function, comments):
    "Parameters of a function, without `self`"
    a = function.args
    positional = [*a.posonlyargs, *a.args]
    defaults = [None]*(len(positional) - len(a.defaults)) + a.defaults
    rows = [(o.arg, o, d) for o, d in zip(positional, defaults)]
    if a.vararg: rows.append((f'*{a.vararg.arg}', a.vararg, None))
    rows += [(o.arg, o, d) for o, d in zip(a.kwonlyargs, a.kw_defaults)]
    if a.kwarg: rows.append((f'**{a.kwarg.arg}', a.kwarg, None))
    lines = [o.lineno for _, o, _ in rows]
    return tuple(Parameter(name, plain(o.annotation), code(d), said(o.lineno, comments, lines.count(o.lineno) == 1))
                 for name, o, d in rows if name not in ('self', 'cls'))

def signature_of(function):
    "Names and defaults of a function, on one line"
    bare = ast.parse(ast.unparse(function)).body[0].args
    stars = [o for o in (bare.vararg, bare.kwarg) if o]
    for o in [*bare.posonlyargs, *bare.args, *bare.kwonlyargs, *stars]: o.annotation = None
    if bare.args and bare.args[0].arg in ('self', 'cls'): bare.args = bare.args[1:]
    return ast.unparse(bare)

def function_entry(node, comments, kind='function'):
    returns = node.returns and Parameter('', plain(node.returns), '', comments.get(node.returns.lineno, ''))
    says, parameters = ast.get_docstring(node) or '', parameters_of(node, comments)
    return Entry(kind, node.name, says, parameters, returns, value=signature_of(node))

def fields_of(node, comments):
    "The fields of a class, with their comments"
    kept = [o for o in node.body if isinstance(o, ast.AnnAssign) and not o.target.id.startswith('_')]
    return tuple(Parameter(o.target.id, plain(o.annotation), code(o.value), comments.get(o.lineno, '')) for o in kept)

def class_entry(node, comments):
    functions = [o for o in node.body if isinstance(o, ast.FunctionDef)]
    init = next((o for o in functions if o.name == '__init__'), None)
    given = parameters_of(init, comments) if init else fields_of(node, comments)
    signature = signature_of(init) if init else ', '.join(o.name for o in given)
    members, seen = [], set()
    for o in functions:
        if o.name.startswith('_') or o.name in seen: continue
        seen.add(o.name)
        members.append(function_entry(o, comments, 'method'))
    return Entry('class', node.name, ast.get_docstring(node) or '', given, members=tuple(members), value=signature)

def targets_of(node):
    "Names and values of an assignment, one by one"
    if not isinstance(node, ast.Assign): return []
    target = node.targets[0]
    if isinstance(target, ast.Name): return [(target.id, node.value)]
    names = [o.id for o in getattr(target, 'elts', ()) if isinstance(o, ast.Name)]
    one_by_one = isinstance(node.value, ast.Tuple) and len(node.value.elts) == len(names)
    return list(zip(names, node.value.elts if one_by_one else [node.value]*len(names)))

def data_entry(name, value, says):
    text = ast.unparse(value)
    return Entry('data', name, says, value=text if len(text) <= 100 else '')

def public_names(tree):
    "What a module exports"
    for node in tree.body:
        for name, value in targets_of(node):
            if name == '__all__': return ast.literal_eval(value)
    return []

@cache
def entries(module):
    "The public names of a module, as they come"
    source = source_of(module)
    tree, comments, found = ast.parse(source), comments_of(source), {}
    for node in tree.body:
        for entry in entries_of(node, comments): found.setdefault(entry.name, entry)
    return [entry for entry in found.values() if entry.name in set(public_names(tree))]

def entries_of(node, comments):
    "What a statement of a module defines"
    if isinstance(node, ast.FunctionDef): return [function_entry(node, comments)]
    if isinstance(node, ast.ClassDef): return [class_entry(node, comments)]
    return [data_entry(name, value, comments.get(node.lineno, '')) for name, value in targets_of(node)]

SPECIAL = re.compile(r'([*$<>\[\]{}|\\])')

def prose(text):
    "Words of a comment or docstring as Markdown: what stands between backticks is code, all else means itself"
    parts = re.split(r'(``.*?``|`[^`]*`)', ' '.join(text.split()))
    return ''.join(part if part.startswith('`') else SPECIAL.sub(r'\\\1', part) for part in parts)

def as_code(text): return f'`{text}`' if text else ''

def line_of(name, kind, default, says):
    "One parameter: name, type and default, then what it means"
    facts = [as_code(kind)] if kind else []
    if default: facts.append(f'default {as_code(default)}')
    meaning = f': {prose(says)}' if says else ''
    return f"- {name} ({', '.join(facts)}){meaning}" if facts else f'- {name}{meaning}'

def parameter_row(one): return line_of(f'**{as_code(one.name)}**', one.type, one.default, one.says)

def returns_row(one): return line_of('**returns**', one.type, '', one.says)

def body(entry):
    "What stands below a signature"
    lines = ['\n\n'.join(prose(part) for part in entry.says.split('\n\n')), '']
    lines += [parameter_row(one) for one in entry.parameters]
    if entry.returns and entry.returns.type != 'None': lines.append(returns_row(entry.returns))
    lines.append('')
    return '\n'.join(lines)

def directive(entry, ticks='````'):
    "An entry as a directive of Sphinx's Python domain, methods inside that of their class"
    first = entry.name if entry.kind == 'data' else f'{entry.name}({entry.value})'
    lines = [f'{ticks}{{py:{entry.kind}}} {first}']
    value = json.dumps(entry.value, ensure_ascii=False) # options are YAML
    if entry.kind == 'data' and entry.value: lines.append(f':value: {value}')
    lines += ['', body(entry), *(directive(member, '```') for member in entry.members)]
    return '\n'.join([*lines, ticks, ''])

def made_line(entry):
    "A link to the cell of the book that makes it"
    return f'```{{div}} made\n[where it is made](#{anchor(entry.name)})\n```\n' if entry.kind != 'data' else ''

def module_page(path):
    "The reference of one module"
    module = module_of(path)
    found = entries(module)
    explained = f'Explained in [{path.stem[:2]} {module}](../book/{path.name}).'
    head = [f'# {module}', f'*{summary_of(path)}*', explained, f'```{{py:module}} landslide_nb.{module}\n```']
    lines = ['\n\n'.join(head), '']
    for title, kinds in (('Functions', ('function',)), ('Classes', ('class',)), ('Constants', ('data',))):
        chosen = [entry for entry in found if entry.kind in kinds]
        if chosen: lines += [f'## {title}', '', *(f'{directive(entry)}\n{made_line(entry)}' for entry in chosen)]
    return '\n'.join(lines)

def write_api(to):
    "One page a module, one a chapter, and a first page with the verbs"
    to.mkdir(parents=True, exist_ok=True)
    chapters = {}
    for chapter, paths in by_chapter().items():
        own = [path for path in paths if module_of(path)]
        if not own: continue
        chapters[chapter] = own
        for path in own: (to/f'{module_of(path)}.md').write_text(module_page(path))
        (to/f'{chapter}.md').write_text(chapter_page(chapter, own))
    (to/'index.md').write_text(first_page(chapters))

def chapter_page(chapter, paths):
    rows = [f'- [{module_of(path)}]({module_of(path)}.md): {summary_of(path)}' for path in paths]
    toc = ['```{toctree}', ':hidden:', *(f'{module_of(path)}' for path in paths), '```']
    return '\n'.join([f'# {chapter.capitalize()}', '', story(chapter), '', *rows, '', *toc, ''])

def verbs():
    "Verb -> module, as `import landslide_nb` offers them"
    tree = ast.parse(source_of('verbs'))
    node = next(o for o in tree.body if isinstance(o, ast.Assign) and o.targets[0].id == 'VERBS')
    return {k.arg: k.value.value for k in node.value.keywords}

FIRST = '''# Reference

`import landslide_nb as ls` offers the verbs below; each is imported when it is first used. Everything else is imported
from its module: `from landslide_nb.data.grid import pixel_area`. Beside each parameter stand its type, its default and
its meaning with dimensions and units, as they stand beside it in the code.

## The verbs

| verb | does |
|---|---|
'''

def says_of(name, module):
    return next((entry.says.split('\n')[0] for entry in entries(module) if entry.name == name), '')

def home_of(name, module):
    "The module that writes a name, which another may offer again"
    known = [module, *(other for other in imports_of(module) if other in modules())]
    return next((one for one in known if says_of(name, one)), module)

def first_page(chapters):
    rows = [verb_row(name, module) for name, module in verbs().items()]
    lists = [f'- [{chapter.capitalize()}]({chapter}.md): {story(chapter)}' for chapter in chapters]
    toc = ['```{toctree}', ':hidden:', *chapters, '```']
    return FIRST + '\n'.join([*rows, '', '## By chapter', '', *lists, '', *toc, ''])

def verb_row(name, module):
    home = home_of(name, module)
    return f'| [`{name}`](#landslide_nb.{home}.{name}) | {prose(says_of(name, home))} |'
