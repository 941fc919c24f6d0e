"""The demo: every stage once, on rendered clips, and one page that shows what came out.

It stands with the command line, above the stages: it is the only code that calls all three.
"""
