"""`python -m recipes`: everything from the npm packages to core/bundled.

Each stage resumes where it was stopped.
"""

from recipes import assemble, data, judges, none_of_these, text_encoder, unet, vae

if __name__ == "__main__":
    for stage in (data, vae, text_encoder, judges, unet, assemble, none_of_these):
        stage.main()
