"""The tour: a figure and a few sentences for each chapter of docs/, and a page that holds them."""
