"""Known vulnerabilities of what is installed, as pip-audit finds them.

    pip install pip-audit && python tests/audit.py

It asks a vulnerability service on the web. Exit code 0: nothing is known; 1: something is, and is listed; 3: not run, with
the reason. A mirror of a registry that knows of no vulnerabilities is no service: what it answers is not taken for "none".
"""
import json
import subprocess
import sys

SERVICES = ('pypi', 'osv')


def ask(service):
    "The dependencies as one service sees them, or None if it cannot say"
    words = [sys.executable, '-m', 'pip_audit', '--local', '--format', 'json', '--progress-spinner', 'off',
             '--vulnerability-service', service]
    try: out = subprocess.run(words, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired: return None
    try: return json.loads(out.stdout)['dependencies']
    except (ValueError, KeyError): return None

def skipped(found):
    "Names that a service knows nothing of, this package apart"
    return [one['name'] for one in found if 'skip_reason' in one and one['name'].replace('_', '-') != 'landslide-nb']

def vulnerable(found): return [f"{one['name']} {one['version']}: {v['id']}" for one in found for v in one.get('vulns', [])]

def main():
    for service in SERVICES:
        found = ask(service)
        if not found or len(skipped(found)) > len(found)/2: continue
        bad = vulnerable(found)
        print(f'{service}: {len(found)} packages, {len(bad)} known vulnerabilities', *bad, sep='\n')
        return 1 if bad else 0
    print('not run: no vulnerability service could be reached (or pip-audit is not installed)')
    return 3

if __name__ == '__main__': sys.exit(main())
