"""`diffjax demo`: what diffusion finds, on scenes composed here and now."""

import pathlib

from diffjax import caches
from diffjax.demo import run_demo, write_demo_page
from diffjax.progress import progress_bars
from diffjax.report import caption, difference_table, mean_ap_table, text_table

from ._usage import check_writable, say


def demo(out: pathlib.Path = pathlib.Path("diffjax-demo.html")) -> None:
    """Show what diffusion finds, on scenes composed here and now.

    Composes 680 cluttered scenes with small objects and 80 queries, indexes them,
    answers every query by five methods, prints a table and writes a page of answers.
    Takes a minute or three the first time, seconds later: scenes and index are kept in
    the cache folder ($DIFFJAX_CACHE).

    Args:
        out: The page to write.
    """
    caches.keep_compiled_programs()
    check_writable(out)
    with progress_bars() as progress:
        found = run_demo(caches.cache_folder() / "demo", progress=progress)
        write_demo_page(out, found)
    results = found.record["results"]
    say(text_table(*mean_ap_table(results)))
    say(text_table(*difference_table(results)))
    say(f"{caption(found.record)}")
    say(f"\nThe answers, side by side: {out.resolve().as_uri()}")
