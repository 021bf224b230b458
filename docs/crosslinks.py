"A public name between backticks becomes a link to its reference, wherever it stands alone and has one meaning only."
from docutils import nodes
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform

def unique_names(objects):
    "Last part of the name of each object -> its full name, where only one object has it"
    found, twice = {}, set()
    for full, entry in objects.items():
        if entry.objtype not in ('function', 'class', 'data', 'module'): continue
        short = full.removeprefix('landslide_nb.') if entry.objtype == 'module' else full.rpartition('.')[2]
        if short in found: twice.add(short)
        found[short] = full
    return {short: full for short, full in found.items() if short not in twice and len(short) > 3}

NEVER = (nodes.reference, nodes.title, addnodes.pending_xref, addnodes.desc_signature) # inside these

class NamesBecomeLinks(SphinxPostTransform):
    "Before references are resolved"
    default_priority = 5

    def run(self, **options):
        domain = self.env.domains['py']
        known = unique_names(domain.objects)
        for node in list(self.document.findall(nodes.literal)):
            full = known.get(node.astext().removesuffix('()').removeprefix('landslide_nb.').removeprefix('ls.'))
            if full is None or within(node, NEVER): continue
            target = domain.objects[full]
            if target.docname == self.env.docname and within(node, (addnodes.desc_content,)): continue
            uri = self.app.builder.get_relative_uri(self.env.docname, target.docname) + f'#{target.node_id}'
            link = nodes.reference('', '', internal=True, refuri=uri, reftitle=full)
            node.replace_self(link)
            link += node

def within(node, kinds):
    "Whether a node lies inside another of these kinds"
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds): return True
    return False

def setup(app):
    app.add_post_transform(NamesBecomeLinks)
    return dict(parallel_read_safe=True, parallel_write_safe=True)
