"""An instance on its host: generations, runtimes, client, proof, placement, comparison, switch."""
