"""The fast paths: tensors in, tensors out; nothing here knows the agent.

Import from the op folders: `from pixelis_fast.kernels.resize import resize`.
"""
