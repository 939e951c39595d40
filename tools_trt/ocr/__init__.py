"""Reading text: lines are found, turned upright and recognised, by EasyOCR's nets or PP-OCR's."""
