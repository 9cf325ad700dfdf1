"""The work of every stage: each reads its inputs, calls what computes, and writes its outputs.

A work imports what it needs when it starts: nothing heavy is loaded before.
"""
