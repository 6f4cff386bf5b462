"""A model as a folder of static files: a page that captions pictures in the browser."""
