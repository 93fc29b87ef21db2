// SPDX-License-Identifier: Apache-2.0
package io.imagekit.hadoop;

import java.io.IOException;
import java.net.URI;
import java.net.URISyntaxException;

import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.ChecksumFs;
import org.apache.hadoop.fs.DelegateToFileSystem;

/**
 * The same for users of Hadoop's {@code FileContext}, such as the checkpoints of Spark's structured
 * streaming: {@code fs.AbstractFileSystem.file.impl}.
 */
public class NoForkLocalFs extends ChecksumFs {
    /**
     * Called by Hadoop.
     *
     * @param uri {@code file:///}
     * @param conf Hadoop's configuration
     */
    public NoForkLocalFs(URI uri, Configuration conf) throws IOException, URISyntaxException {
        super(new Raw(uri, conf));
    }

    private static final class Raw extends DelegateToFileSystem {
        Raw(URI uri, Configuration conf) throws IOException, URISyntaxException {
            super(uri, new NoForkRawFileSystem(), conf, "file", false);
        }

        /** Any name is one of a local file, also with a colon. */
        @Override
        public boolean isValidName(String path) {
            return true;
        }
    }
}
