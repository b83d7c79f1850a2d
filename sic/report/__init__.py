"""What is shown: figures and tables (`figures`), findings in words (`findings`), pages
(`pages`), executed notebooks (`notebook`), and where each number comes from (`provenance`)."""
