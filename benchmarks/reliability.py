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
FILES = (
    'test_bad_input.py',
    'test_doors.py',
    'test_kinds.py',
    'test_netcdf.py',
    'test_dead_ends.py',
    'test_fuzz.py',
    'test_security.py',
)

def parsed(file):
    "The code of a file of tests"
    return ast.parse((root/'tests'/file).read_text())

def campaign_calls(code):
    "The calls of `campaign` in some code"
    calls = [node for node in ast.walk(code) if isinstance(node, ast.Call)]
    return [call for call in calls if getattr(call.func, 'id', '') == 'campaign']

def doors():
    "The names of the campaigns"
    return [call.args[0].value for file in FUZZED for call in campaign_calls(parsed(file))]

def campaigns():
    "The tests that are campaigns"
    tests = [node for file in FUZZED for node in parsed(file).body if isinstance(node, ast.FunctionDef)]
    return {test.name for test in tests if campaign_calls(test)}

def kinds(file):
    "The tests of a file, with their parameters"
    options = ['--collect-only', '-q', '-n', '0', '-p', 'no:cacheprovider']
    words = [sys.executable, '-m', 'pytest', *options, root/'tests'/file]
    out = subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=300)
    found = [line.partition('::')[2] for line in out.stdout.splitlines() if '::' in line]
    left_out = campaigns()
    return [name for name in found if name.partition('[')[0] not in left_out]

def main():
    "Count, and print"
    counted = {file: len(kinds(file)) for file in FILES}
    names = doors()
    print(f'{len(names)} doors fuzzed: {", ".join(names)}')
    print(f'{sum(counted.values())} kinds of malformed input')
    for file, count in counted.items(): print(f'  {count:4} tests/{file}')

if __name__ == '__main__': main()
