"""What an index shall do, and the engines that can do it: one file per engine, found by `engines`.

A new engine is a file in this folder with a class that `@register_engine` decorates; see `engine.Engine`.
"""
