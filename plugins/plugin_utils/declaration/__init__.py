"""The rules of a declaration: what instances are declared to be, and what is wrong with that.

    instances       what has the shape of instances, and their names
    recommendations options that profiles of models recommend, beneath what is declared
    problems        everything wrong with the instances of a host, one line each; it asks
      settings      the role's variables and sampling presets
      keys          keys of clients
      models        what an instance serves: one model, or several as a router
      flags         flags of the command line, and extra_args
      environment   variables of the process
      peers         ports that two instances share
    config          what the host is told: configuration, files, what to prove
      arguments     words of the command line, sections of a router's file
      profiles      models and chat templates by name, and the files of models
      proof         what the proof of a start asks for
    exposure        who can reach the instances, and with what they are started
    options         types and defaults of options
    rules           the role's tables, which all of the above go by

Filters hand these functions to Ansible (plugins/filter/llama_server.py). No message holds a key, nor what may be one.
"""
