"""The networks: operations with their backward, parameters, two architectures, the optimiser."""
