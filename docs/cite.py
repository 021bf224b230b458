"How to cite, made from CITATION.cff."
import yaml

from modules import root

PAGE = '''# How to cite

Cite the paper that the package implements, and the software with its version.

## The paper

{paper}

```bibtex
{paper_bib}
```

## The software

{software}

```bibtex
{software_bib}
```

`CITATION.cff` at the top of the project holds the same for machines. Cite the data you map as its makers ask. A run
folder's `item.json` names the passes.
'''

def people(cff):
    "Authors as BibTeX has them"
    return ' and '.join(o.get('name') or f"{o['family-names']}, {o['given-names']}" for o in cff['authors'])

def words(cff, year):
    "Authors, year and title as one sentence"
    names = [o.get('name') or f"{o['given-names']} {o['family-names']}" for o in cff['authors']]
    return f"{', '.join(names)}{year}. *{cff['title']}*."

def bib(kind, key, **fields):
    rows = [f'  {name} = {{{value}}}' for name, value in fields.items()]
    return '\n'.join([f'@{kind}{{{key},', ',\n'.join(rows), '}'])

def page():
    "The page"
    cff = yaml.safe_load((root/'CITATION.cff').read_text())
    paper = cff['preferred-citation']
    in_proceedings = dict(booktitle=paper['collection-title'], year=paper['year'], url=paper['url'])
    paper_bib = bib('inproceedings', 'boehm2022', author=people(paper), title=paper['title'], **in_proceedings)
    of_all = dict(author=f'{{{people(cff)}}}', title=cff['title'], version=cff['version'])
    software = f"{words(cff, '')} Version {cff['version']}, {cff['license']}."
    software_bib = bib('software', 'landslide_nb', **of_all)
    return PAGE.format(paper=sentence(paper), paper_bib=paper_bib, software=software, software_bib=software_bib)

def sentence(paper):
    return f"{words(paper, ' (' + str(paper['year']) + ')')} {paper['collection-title']}. <{paper['url']}>"
