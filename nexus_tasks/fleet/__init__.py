"""Ansible asked: playbooks run, the inventory, ways to servers, deployments and builds as their records tell them."""
