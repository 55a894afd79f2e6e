"""Is this LAQ good? Measures on held-out pairs, each beside its controls, and lines to pass or fail.

A LAQ is seen as a `subject.Subject`, numpy in and numpy out; `pairs` samples what it is judged on; each
measure is a module of its own; `court` calls them all, `lines` decides and `report` writes the page.
"""
