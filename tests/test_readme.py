"Every number of the README stands in a recorded table, and the text keeps to its measure."
import json, re
from pathlib import Path

root = Path(__file__).parents[1]
readme = (root/'README.md').read_text()

def notebook(stem): return '\n'.join(''.join(c['source']) for c in json.loads((root/'nbs'/f'{stem}.ipynb').read_text())['cells'])
def row(question): return next(line for line in readme.splitlines() if line.startswith(f'| {question}'))
def numbers(text): return [float(n) for n in re.findall(r'\d+\.\d+|\d+', text)]

def test_at_most_900_words():
    words = [w for w in readme.replace('|', ' ').split() if re.search(r'\w', w)]
    assert len(words) <= 900

def test_demo_table_is_the_recorded_one():
    "benchmarks/demo.md is what `landslide-nb demo` printed"
    recorded = (root/'benchmarks'/'demo.md').read_text()
    table = [line for line in recorded.splitlines() if line.startswith('|')]
    assert len(table) == 8 and all(line in readme for line in table)
    seconds, memory = re.search(r'seconds: (\d+), peak memory: ([\d.]+) GB', recorded).groups()
    assert f'in {seconds} s, with {memory} GB' in readme

def test_ratios_are_those_of_the_tutorial():
    found = re.findall(r'^\| base, full \| (.+) \|$', notebook('93_tutorial.label_efficiency'), re.M)
    # AUPRC as a multiple of no pretraining
    ratios = next(cells for cells in (line.split(' | ') for line in found) if numbers(cells[0])[0] > 1)
    five, ten, twenty = ([round(n, 1) for n in numbers(cell)[:3]] for cell in ratios)
    said = numbers(row('How much do the shipped weights help').split('|')[2])
    assert said == [five[0], 5, 95, *five[1:], ten[0], 10, *ten[1:], twenty[0], 20, *twenty[1:]]

def test_the_real_landslide_is_that_of_the_model_card():
    card = (root/'landslide_nb'/'weights'/'base.md').read_text()
    real = re.search(r'average precision (0\.\d+) from all passes and (0\.\d+) from the first pass', card).groups()
    assert numbers(row('How well do they rank').split('|')[2]) == [float(n) for n in real]

def test_site_adaptation_is_that_of_its_notebook():
    both = re.search(r'^\| all simulated places \(16\) \| ([\d.]+) / \*\*([\d.]+)\*\*', notebook('43_weights.adapt'), re.M).groups()
    assert numbers(row('What does site adaptation add').split('|')[2]) == [*(float(n) for n in both), 16]

def test_every_file_and_notebook_it_names_exists():
    links = [target for target in re.findall(r'\]\(([^)]+)\)', readme) if not target.startswith('http')]
    assert links and all((root/target).exists() for target in links)
    for stem in re.findall(r'`(\d\d_[\w.]+)`', readme): assert (root/'nbs'/f'{stem}.ipynb').exists(), stem
