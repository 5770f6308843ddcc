"""An instance on its host: what is declared and what is there, runtimes, requests, proof, switch."""
