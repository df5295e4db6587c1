"""A recording as files of other tools: flame graphs, speedscope, pprof, Perfetto."""
