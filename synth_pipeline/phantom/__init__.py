"""Procedural faces with known dysmorphology: the Shepp-Logan phantom of this field.

No pixel comes from a person. The shape starts at MediaPipe's canonical face mesh and is moved by
named fields; a condition is a set of Human Phenotype Ontology terms.
"""
