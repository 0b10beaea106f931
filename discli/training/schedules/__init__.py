"""The learning rate over the steps. It takes no tensors, so the Spec is all there is to one."""
