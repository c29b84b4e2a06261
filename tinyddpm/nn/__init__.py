"""The network: operations and their backward, the parameters, the two architectures, the optimiser."""
