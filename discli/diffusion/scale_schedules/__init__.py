"""How the guidance scale changes over the steps. It takes no tensors, so the Spec is all there is to one."""
