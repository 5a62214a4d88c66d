"""LoRA on the device: where an adapter's matrices lie, which token uses which, and kernels that apply them.

Nothing here is imported by `gpu_validate` itself, so torch and Triton are needed only by who asks for a backend.
"""
