"Run the duels one after the other, print their ratios, write benchmarks/results.md and results.json"
import argparse, json, os, platform, subprocess, sys, time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks import archive # noqa: F401 (a duel of its own)
from benchmarks.duels import DUELS

here = Path(__file__).parent
PACKAGES = ('torch', 'fastai', 'dask', 'distributed', 'xarray', 'zarr', 'rasterio', 'scikit-learn', 'torchmetrics', 'xbatcher',
            'torchgeo', 'segmentation-models-pytorch', 'monai', 'tiler', 'terratorch', 'distmetrics')

def git(*words):
    "What git answers about the package"
    asked = ['git', '-C', str(here), *words, '--', '../landslide_nb']
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip()

def commit():
    "The last one that changed the package, with a plus where it was changed since; '' where git does not say"
    try: return git('log', '-1', '--format=%h') + '+'*bool(git('status', '--porcelain'))
    except OSError: return ''

def installed(name):
    "The version of a package"
    try: return version(name)
    except PackageNotFoundError: return 'not installed'

def processor():
    "The name of the processor"
    if not os.path.exists('/proc/cpuinfo'): return platform.processor()
    named = (line.split(':')[1].strip() for line in open('/proc/cpuinfo') if line.startswith('model name'))
    return next(named, platform.processor())

def machine():
    "What the numbers were measured on"
    return dict(commit=commit(), day=time.strftime('%Y-%m-%d'), cpu=processor(), cores=os.cpu_count(),
                load=round(os.getloadavg()[0], 1), system=platform.platform(), python=platform.python_version(),
                packages={name: installed(name) for name in PACKAGES})

def commit_of(machine):
    "The commit that a duel was measured on, in words"
    return machine.get('commit') or 'not recorded'

def days_and_commits(results):
    "Which duel was measured on which machine and commit, and which are older than the newest"
    newest = max((r['machine'] for r in results.values() if 'failed' not in r), key=lambda m: m.get('day', ''))
    rows = [(name, r['machine']) for name, r in results.items()]
    older = [name for name, m in rows if m.get('commit') != newest.get('commit')]
    missing = [name for name in DUELS if name not in results]
    lines = [f"The newest numbers are of commit {newest.get('commit')} ({newest.get('day')}, {newest['cpu']}, {newest['cores']} cores)."]
    if older:
        lines.append(f"Not run on that commit: {', '.join(older)}. Their numbers are those of the commit in the table, "
                     "which is the one that recorded them, and nothing says that they hold today.")
    if missing: lines.append(f"Never run: {', '.join(missing)}.")
    table = [f"| {name} | {m['cpu']}, {m['cores']} cores | {commit_of(m)} | {m.get('day', '')} |" for name, m in rows]
    return [' '.join(lines), '', '| duel | machine | commit | day |', '|---|---|---|---|', *table, '']

def cell(value):
    "A value as the page says it"
    if value is None: return ''
    return f'{value:,.4g}' if isinstance(value, float) else str(value)

def rows_as_table(rows):
    "Lines of a table; its columns are those that any row has"
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = ['| ' + ' | '.join(columns) + ' |', '|' + '---|'*len(columns)]
    for row in rows: lines.append('| ' + ' | '.join(cell(row.get(column)) for column in columns) + ' |')
    return lines

def section(name, result):
    "Lines of one duel: what, where, and its rows"
    m = result['machine']
    where = f"{m['cpu']}, {m['cores']} cores, commit {commit_of(m)}, load {m['load']}"
    versions = f"Python {m['python']}, torch {m['packages']['torch']}"
    said = f"{result['settings']}. {where}, {versions}; {result['seconds']:.0f} s."
    found = [f"Not run: {result['failed']}"] if 'failed' in result else rows_as_table(result['rows'])
    return [f'## {name}', '', result['what'], '', said, '', *found, '']

ABOUT = ('Made by `python -m benchmarks`; ratios are medians over alternating rounds in one process, with their range; '
         'above 1, landslide_nb is faster. Beside the clock stands the ratio in CPU time of all threads, which other work on '
         "the machine disturbs less. `load` is the machine's average load when a duel began: it slows both sides of a duel, "
         'and blurs absolute rates.')

def page(results):
    "results.json for people"
    lines = ['# Duels', '', ABOUT, '']
    if len(results) > 1: lines += days_and_commits(results)
    for name, result in results.items(): lines += section(name, result)
    return '\n'.join(lines)

def one(name, scale):
    "Run one duel here"
    start, m = time.time(), machine()
    what, run = DUELS[name].__doc__, DUELS[name]
    try: settings, rows = run(scale)
    except ImportError as e:
        failed = f'{e}; a peer that is not installed is not imitated'
        return dict(what=what, settings='', scale=scale, machine=m, seconds=time.time() - start, failed=failed)
    return dict(what=what, settings=settings, scale=scale, rows=rows, machine=m, seconds=time.time() - start)

def in_its_own_process(name, scale):
    "Run one duel in a process of its own: no peer inherits another's threads or memory; None: it failed"
    words = [sys.executable, '-W', 'ignore', '-m', 'benchmarks', name, '--here', '--scale', str(scale)]
    out = subprocess.run(words, cwd=here.parent, stdout=subprocess.PIPE, text=True)
    found = [line[7:] for line in out.stdout.splitlines() if line.startswith('RESULT ')]
    if found: return json.loads(found[0])
    print(f'{name}: failed with exit code {out.returncode}', file=sys.stderr)

def run_all(names, scale, folder):
    "Run duels one after the other; after each, write the results of all that were ever run, and print its own"
    path = folder/'results.json'
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in names:
        found = in_its_own_process(name, scale)
        if found is None: continue
        results[name] = found
        results = {k: results[k] for k in DUELS if k in results}
        path.write_text(json.dumps(results, indent=1) + '\n')
        (folder/'results.md').write_text(page(results))
        print(page({name: found}), flush=True)

def main():
    "The command line"
    p = argparse.ArgumentParser('python -m benchmarks', description=__doc__)
    p.add_argument('duels', nargs='*', metavar='DUEL', help=f"one or several of {', '.join(DUELS)}; default: all")
    p.add_argument('--scale', type=float, default=1., help='size of the inputs, 1 = as stated in results.md')
    p.add_argument('--here', action='store_true', help='in this process, print JSON (used for one duel by the run of all)')
    p.add_argument('--out', type=Path, default=here, help='folder of results.md and results.json')
    args = p.parse_args()
    unknown = set(args.duels) - set(DUELS)
    if unknown: p.error(f"unknown duel {', '.join(sorted(unknown))}")
    if args.here: print('RESULT', json.dumps(one(args.duels[0], args.scale)))
    else: run_all(args.duels or DUELS, args.scale, args.out)

if __name__ == '__main__': main()
