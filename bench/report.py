"""stub"""
def show(r):
    print(r.key, r.unit, {k: [round(x,2) for x in v] for k,v in r.values.items()}, r.counts, r.notes, r.curve[:3], flush=True)
def write(*a): print(a[1], a[2], a[3])
