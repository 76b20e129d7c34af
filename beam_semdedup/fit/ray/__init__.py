"""The engine that fits in actors of a Ray cluster; of fit/, this alone starts or joins one."""
