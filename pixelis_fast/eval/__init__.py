"""Evaluation: metrics, public benchmarks, and runs that compare two agents."""
