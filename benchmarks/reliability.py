"""How much is tried: `python -m benchmarks.reliability` counts the doors that are fuzzed and the kinds of malformed input.

A door is a campaign of tests/test_fuzz.py or tests/test_fuzz_archive.py. A kind is one collected test, with its parameters, of the files that try input
that is not as it should be; campaigns are counted as doors only.
"""
import ast
import subprocess
import sys
from pathlib import Path

root = Path(__file__).parents[1]
FUZZED = ('test_fuzz.py', 'test_fuzz_archive.py')
FILES = ('test_bad_input.py', 'test_doors.py', 'test_kinds.py', 'test_netcdf.py', 'test_dead_ends.py', 'test_fuzz.py', 'test_security.py')


def parsed(file):
    "The code of a file of tests"
    return ast.parse((root/'tests'/file).read_text())


def doors():
    "The names of the campaigns"
    calls = [n for file in FUZZED for n in ast.walk(parsed(file)) if isinstance(n, ast.Call)]
    return [c.args[0].value for c in calls if getattr(c.func, 'id', '') == 'campaign']

def campaigns():
    "The tests that are campaigns"
    tests = [n for file in FUZZED for n in parsed(file).body if isinstance(n, ast.FunctionDef)]
    return {t.name for t in tests if any(getattr(getattr(n, 'func', None), 'id', '') == 'campaign' for n in ast.walk(t))}

def kinds(file):
    "The tests of a file, with their parameters"
    words = [sys.executable, '-m', 'pytest', '--collect-only', '-q', '-n', '0', '-p', 'no:cacheprovider', root/'tests'/file]
    out = subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=300)
    found = [line.partition('::')[2] for line in out.stdout.splitlines() if '::' in line]
    return [name for name in found if name.partition('[')[0] not in campaigns()]

def main():
    counted = {file: len(kinds(file)) for file in FILES}
    print(f'{len(doors())} doors fuzzed: {", ".join(doors())}')
    print(f'{sum(counted.values())} kinds of malformed input')
    for file, count in counted.items(): print(f'  {count:4} tests/{file}')

if __name__ == '__main__': main()
