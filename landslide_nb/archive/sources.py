"stub"
def find_frames(source, box, start, end, track=None):
    import pystac
    from landslide_nb.archive.frames import item_frame
    cat=pystac.Catalog.from_file(str(source))
    out=[]
    for i in cat.get_items(recursive=True):
        if 'vv' not in i.assets: continue
        i.make_asset_hrefs_absolute()
        f=item_frame(i)
        if start<=f.time.date()<=end: out.append(f)
    return out
