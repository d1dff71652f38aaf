"""TransferAU: action units from a backbone that has learnt expressions first."""

from lightning_modules.transfer_au.module import ExpressionClassifier, TransferAU

__all__ = ["ExpressionClassifier", "TransferAU"]
