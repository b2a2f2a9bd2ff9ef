"""How to cite the method."""

from __future__ import annotations

__all__ = ["BIBTEX"]

BIBTEX = """@inproceedings{melnyk2024distributional,
  title     = {Distributional Preference Alignment of {LLMs} via Optimal Transport},
  author    = {Melnyk, Igor and Mroueh, Youssef and Belgodere, Brian and Rigotti, Mattia and
               Nitsure, Apoorva and Yurochkin, Mikhail and Greenewald, Kristjan and
               Navratil, Jiri and Ross, Jerret},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2024},
  note      = {arXiv:2406.05882}
}"""
"""The paper whose method Distal implements."""
